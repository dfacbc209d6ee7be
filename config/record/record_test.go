package record

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
)

var (
	key   = []byte("0123456789abcdef0123456789abcdef")
	other = []byte("another key of as many bytes !!!")
	given = Record{
		UID:       "6f9c",
		Request:   RequestOf(nil),
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	}
)

// with returns a Service of that UID whose record has this text.
func with(uid types.UID, text string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{UID: uid}}
	svc.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ServiceRecord, Message: text}}
	return svc
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	for _, r := range []Record{given, {UID: "6f9c", Request: RequestOf([]string{"a", "b"})}} {
		found, err := Of(with(r.UID, r.Condition(key, metav1.Time{}).Message), key)
		if err != nil || !found.Equal(r) {
			t.Errorf("%v was read as %v, %v", r, found, err)
		}
	}
}

func TestARecordHoldsForNothingElse(t *testing.T) {
	text := given.sign(key)
	var forged *ForgedError
	for name, svc := range map[string]*corev1.Service{
		"another Service":   with("aaaa", text),
		"another address":   with("6f9c", strings.Replace(text, "192.0.2.1", "192.0.2.2", 1)),
		"one address less":  with("6f9c", strings.Replace(text, "192.0.2.1,", "", 1)),
		"another request":   with("6f9c", strings.Replace(text, given.Request, "00000000", 1)),
		"another signature": with("6f9c", text[:len(text)-2]+"AA"),
	} {
		if _, err := Of(svc, key); !errors.As(err, &forged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var unknown *UnknownKeyError
	if _, err := Of(with("6f9c", text), other); !errors.As(err, &unknown) || !unknown.Record.Equal(given) {
		t.Errorf("signed with an unknown key: %v", err)
	}
	if _, err := Of(&corev1.Service{}, key); !errors.Is(err, ErrNone) {
		t.Errorf("no record: %v", err)
	}
}

func TestWhatIsNoRecordIsSaidToBeNone(t *testing.T) {
	text := given.sign(key)
	for _, bad := range []string{
		"", "v1", "v2" + text[2:], text + " more", strings.Repeat("x", 2000),
		strings.Replace(text, "192.0.2.1", "192.0.2.01", 1),
		strings.Replace(text, "192.0.2.1", "::ffff:192.0.2.1", 1),
		strings.Replace(text, "2001:db8::1", "2001:db8::1%eth0", 1),
		strings.Replace(text, "192.0.2.1,2001:db8::1", "2001:db8::1,192.0.2.1", 1),
		strings.Replace(text, "192.0.2.1", "192.0.2.1,192.0.2.2", 1),
	} {
		if r, err := Of(with("6f9c", bad), key); err == nil {
			t.Errorf("%q was read as %v", bad, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(given.sign(key))
	f.Add("v1 a b c - d")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Of(with("6f9c", text), key)
		if err == nil && r.sign(key) != text {
			t.Errorf("%q is taken for %q", text, r.sign(key))
		}
	})
}
