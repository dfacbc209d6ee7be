package retain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/config/v1alpha1"
)

const askAtMost = time.Second

// Ask returns a Served that asks the API server. Of a definition that is being deleted it says that
// nothing can be created. Who may not ask takes every kind for served. An answer, or that there is
// none, counts for a moment: who asks about many objects asks once.
func Ask(ctx context.Context, client rest.Interface) Served {
	var mu sync.Mutex
	var at time.Time
	var creatable map[string]bool // nil: all are
	var failed error
	return func(resource string) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		if at.IsZero() || time.Since(at) >= AskEvery/2 {
			creatable, failed = ask(ctx, client)
			at = time.Now()
		}
		return failed == nil && (creatable == nil || creatable[resource]), failed
	}
}

func ask(ctx context.Context, client rest.Interface) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askAtMost)
	defer cancel()
	text, err := client.Get().AbsPath("/apis/"+v1alpha1.GroupVersion.String()).
		SetHeader("Accept", "application/json").Do(ctx).Raw()
	creatable := map[string]bool{}
	switch {
	case apierrors.IsNotFound(err):
		return creatable, nil
	case apierrors.IsForbidden(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("ask which kinds of %s there are: %w", v1alpha1.GroupVersion, err)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read which kinds of %s there are: %w", v1alpha1.GroupVersion, err)
	}
	for _, r := range list.APIResources {
		creatable[r.Name] = creatable[r.Name] || slices.Contains(r.Verbs, "create")
	}
	return creatable, nil
}
