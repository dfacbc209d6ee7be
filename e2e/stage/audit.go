//go:build linux

package stage

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// auditedRequest is a request of one of Berth's ServiceAccounts, as the API server logged it.
type auditedRequest struct {
	Account                                             string
	Verb, Group, Resource, Subresource, Namespace, Name string
	Code                                                int32 // of the answer, 0 while there is none
}

// right returns the right that the request needs.
func (r auditedRequest) right() Right {
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	return Right{r.Account, r.Group, resource, r.Verb}
}

// audited calls do with each request of Berth's since the lab came up.
func (s *Stage) audited(do func(auditedRequest)) error {
	file, err := os.Open(s.AuditLog())
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	defer file.Close()
	lines := json.NewDecoder(bufio.NewReaderSize(file, 1<<20))
	for {
		var e auditv1.Event
		if err := lines.Decode(&e); errors.Is(err, io.EOF) ||
			errors.Is(err, io.ErrUnexpectedEOF) { // a line may be just being written
			return nil
		} else if err != nil {
			return fmt.Errorf("read the audit log: %w", err)
		}
		account, ours := strings.CutPrefix(e.User.Username, "system:serviceaccount:"+Namespace+":")
		if !ours || e.ObjectRef == nil {
			continue
		}
		r := auditedRequest{
			Account: account, Verb: e.Verb, Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource,
			Subresource: e.ObjectRef.Subresource, Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name,
		}
		if e.ResponseStatus != nil {
			r.Code = e.ResponseStatus.Code
		}
		do(r)
	}
}
