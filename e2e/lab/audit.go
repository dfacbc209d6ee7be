//go:build linux

package lab

import (
	"fmt"
	"os"
	"path/filepath"
)

// AuditLog is the file in which the API server writes one line of JSON (audit.k8s.io/v1 Event,
// level Metadata) for each request of a ServiceAccount outside of kube-system. It is complete: a
// request is written before it is answered.
func (l *Lab) AuditLog() string { return filepath.Join(l.LogDir(), "audit.json") }

// auditPolicy logs a watch when it starts, since it ends late or never.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
  - {level: Metadata, userGroups: ["system:serviceaccounts"], omitManagedFields: true}
  - {level: None}
`

// auditArgs writes the policy, and returns the API server's flags for it.
func (l *Lab) auditArgs() ([]string, error) {
	policy := filepath.Join(l.dir(), "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o644); err != nil {
		return nil, fmt.Errorf("write the audit policy: %w", err)
	}
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + l.AuditLog(), "--audit-log-mode=blocking"}, nil
}
