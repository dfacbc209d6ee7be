//go:build root || release

package plugin

import "context"

// oldKubernetes is a version that Berth does not run on.
const oldKubernetes = "v1.31.14"

// slowAilments need another API server, for which make test has no time.
var slowAilments = []ailment{
	{
		id: "kubernetes-version", what: "Kubernetes is " + oldKubernetes,
		do: apiServer(oldKubernetes), undo: apiServer(""),
	},
	{
		id: "admission-policy-api", what: "no ValidatingAdmissionPolicies",
		do: apiServer(
			"",
			"--runtime-config=admissionregistration.k8s.io/v1/validatingadmissionpolicies=false",
			"--disable-admission-plugins=ValidatingAdmissionPolicy",
		),
		undo: apiServer(""),
	},
}

// apiServer has another API server, of a version of Kubernetes ("" is the lab's) and with further
// flags.
func apiServer(version string, flags ...string) func(context.Context) error {
	return func(ctx context.Context) error { return scene.RestartAPIServer(ctx, version, flags...) }
}
