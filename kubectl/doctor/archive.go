package doctor

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/berth-lb/berth/kubectl/cluster"
)

// extrasFile is the name of saved Extras.
const extrasFile = "extras.json"

// saved is Extras as JSON.
type saved struct {
	*plain
	Missing cluster.Unreadable
}

// plain is Extras without its methods.
type plain Extras

// Save returns the Extras as JSON files, by name.
func (x *Extras) Save() (map[string][]byte, error) {
	content, err := json.Marshal(saved{(*plain)(x), x.Missing})
	return map[string][]byte{extrasFile: content}, err
}

// LoadExtras returns the Extras that were saved among these files.
func LoadExtras(files map[string][]byte) (*Extras, error) {
	content, found := files[extrasFile]
	if !found {
		return nil, fmt.Errorf("it has no %s", extrasFile)
	}
	x := &Extras{}
	in := saved{plain: (*plain)(x)}
	if err := json.Unmarshal(content, &in); err != nil {
		return nil, fmt.Errorf("%s: %w", extrasFile, err)
	}
	x.Missing = map[cluster.Resource]error{}
	maps.Copy(x.Missing, in.Missing)
	return x, nil
}
