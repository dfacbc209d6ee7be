package retain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/config/v1alpha1"
)

const askAtMost = time.Second

// Ask returns a Served that asks the API server. Of a definition that is being deleted it says that
// nothing can be created. Who may not ask takes every kind for served.
func Ask(ctx context.Context, client rest.Interface) Served {
	return func(resource string) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, askAtMost)
		defer cancel()
		text, err := client.Get().AbsPath("/apis/"+v1alpha1.GroupVersion.String()).
			SetHeader("Accept", "application/json").Do(ctx).Raw()
		switch {
		case apierrors.IsNotFound(err):
			return false, nil
		case apierrors.IsForbidden(err):
			return true, nil
		case err != nil:
			return false, fmt.Errorf("ask which kinds of %s there are: %w", v1alpha1.GroupVersion, err)
		}
		var list metav1.APIResourceList
		if err := json.Unmarshal(text, &list); err != nil {
			return false, fmt.Errorf("read which kinds of %s there are: %w", v1alpha1.GroupVersion, err)
		}
		return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool {
			return r.Name == resource && slices.Contains(r.Verbs, "create")
		}), nil
	}
}
