// Package object reads Kubernetes' objects in the words of plans. It is pure: speakers plan with
// it, and the plugin of kubectl predicts with it.
package object
