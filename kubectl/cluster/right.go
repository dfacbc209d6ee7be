package cluster

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Right adds the rule of RBAC that is missing to an error that says that one is.
func Right(err error, does, group, resource string) error {
	if !apierrors.IsForbidden(err) {
		return err
	}
	return fmt.Errorf(
		"you have no right to %s %s; this rule in a role gives it: {apiGroups: [%q], resources: [%s], verbs: [%s]} (%w)",
		does,
		resource,
		group,
		resource,
		does,
		err,
	)
}
