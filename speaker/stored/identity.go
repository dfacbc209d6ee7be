package stored

import (
	"strings"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// identity is what an informer reads of an object.
type identity struct {
	key             string // namespace/name
	uid             types.UID
	resourceVersion string
}

func identityOf(m *metav1.ObjectMeta) identity {
	return identity{key: m.Namespace + "/" + m.Name, uid: m.UID, resourceVersion: m.ResourceVersion}
}

// GetObjectMeta implements metav1.ObjectMetaAccessor. What it returns is a copy.
func (i *identity) GetObjectMeta() metav1.Object {
	namespace, name, _ := strings.Cut(i.key, "/")
	return &metav1.ObjectMeta{Namespace: namespace, Name: name, UID: i.uid, ResourceVersion: i.resourceVersion}
}

// Shared returns one text for all that are equal: decoders make a new one each time.
func Shared(text string) string { return unique.Make(text).Value() }
