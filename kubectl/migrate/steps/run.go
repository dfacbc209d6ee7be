package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/berth-lb/berth/kubectl/cluster"
)

// ErrStopped says that a step was left unfinished after as many actions as were allowed.
var ErrStopped = errors.New("stopped after the actions that were allowed; run the command again to go on")

// Runner does and undoes steps.
type Runner struct {
	// Read returns what the cluster has now.
	Read func(context.Context) (*Snapshot, error)
	// Act carries out an action.
	Act func(context.Context, Action) error
	// Say is told what happens.
	Say func(text string)
	// Poll is the time between two looks.
	Poll time.Duration
	// Timeout is how long a phase may take.
	Timeout time.Duration
	// Managed says that what reconciles MetalLB's objects is suspended.
	Managed bool
	// Actions is how many actions are allowed; 0: any number.
	Actions int
}

// Run does the step of that name, or undoes it. What holds already is not done again. It does
// nothing, and returns a *RefusedError, if there are Refusals.
func (r *Runner) Run(ctx context.Context, name string, undo bool) error {
	w := &walk{
		Runner: r,
		acted:  map[int]bool{},
		did:    map[string]bool{},
		since:  map[int]time.Time{},
		begun:  time.Now(),
	}
	for first := true; ; first = false {
		s, err := r.Read(ctx)
		if err != nil {
			return err
		}
		all, err := Plan(s)
		if err != nil {
			return err
		}
		if reasons := Refusals(s, all, r.Managed); first && !undo && len(reasons) > 0 {
			return &RefusedError{reasons}
		}
		phases, err := phasesOf(all, name, undo)
		if err != nil {
			return err
		}
		over, err := w.look(ctx, phases)
		if over || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(r.Poll):
		}
	}
}

func phasesOf(all []Step, name string, undo bool) ([]Phase, error) {
	for _, step := range all {
		if step.Name != name {
			continue
		}
		if undo {
			return step.Undo, nil
		}
		return step.Do, nil
	}
	if undo {
		return nil, nil // what it was for is gone, and its last trace, too
	}
	return nil, fmt.Errorf("there is no step %s any longer", name)
}

// walk is one run of a step.
type walk struct {
	*Runner
	phase int               // the first that does not hold, or does not long enough
	acted map[int]bool      // phases with actions that were done
	did   map[string]bool   // actions that were done, as commands
	since map[int]time.Time // since when phases hold
	begun time.Time         // of the phase
	done  int               // actions
	said  string
}

// look goes on with the first phase that does not hold, and reports whether all do.
func (w *walk) look(ctx context.Context, phases []Phase) (over bool, err error) {
	now := time.Now()
	for i, p := range phases {
		if !p.Holds() {
			delete(w.since, i)
			return false, w.advance(ctx, i, p, now)
		}
		if _, holds := w.since[i]; !holds {
			w.since[i] = now
		}
		if wait := p.Stay - now.Sub(w.since[i]); wait > 0 && !(holds(phases[i+1:]) && !w.acted[i]) {
			return false, nil
		}
	}
	return true, nil
}

// advance does the actions of a phase, each once, and then waits until it holds. What turns up in
// the meantime is done, too.
func (w *walk) advance(ctx context.Context, i int, p Phase, now time.Time) error {
	if i != w.phase {
		w.phase, w.begun = i, now
	}
	if p.Pending != w.said {
		w.said = p.Pending
		w.Say("  " + p.Pending)
	}
	for _, a := range p.Actions {
		if w.did[a.Command()] {
			continue
		}
		if w.Actions > 0 && w.done == w.Actions {
			return ErrStopped
		}
		w.Say("  " + a.String())
		if err := w.Act(ctx, a); apierrors.IsConflict(err) {
			return nil // it has changed: look again
		} else if err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
		w.did[a.Command()], w.acted[i] = true, true
		w.done++
	}
	if now.Sub(w.begun) > w.Timeout {
		return fmt.Errorf("not within %s: %s. Check: %s", w.Timeout, p.Pending, p.Check)
	}
	return nil
}

// Act carries out an action by the API server.
func Act(ctx context.Context, to dynamic.Interface, a Action) error {
	at := dynamic.ResourceInterface(to.Resource(a.Resource))
	if a.Namespace != "" {
		at = to.Resource(a.Resource).Namespace(a.Namespace)
	}
	var err error
	does := "patch"
	switch {
	case a.Apply != nil:
		_, err = at.Apply(ctx, a.Name, a.Apply, metav1.ApplyOptions{FieldManager: manager})
	case a.Patch != nil:
		var body []byte
		if body, err = json.Marshal(a.Patch); err != nil {
			return err
		}
		var parts []string
		if a.Status {
			parts = append(parts, "status")
		}
		_, err = at.Patch(ctx, a.Name, a.Type, body, metav1.PatchOptions{FieldManager: manager}, parts...)
	default:
		does = "delete"
		if err = at.Delete(ctx, a.Name, metav1.DeleteOptions{}); apierrors.IsNotFound(err) {
			return nil
		}
	}
	return cluster.Right(err, does, a.Resource.Group, a.Resource.Resource)
}
