// Package record is Berth's memory of the addresses that it gave a Service. The record is in the
// status of the Service: it is the condition berth.dev/Record, whose message has a form of its own
// and is signed. It is written together with the addresses. Copying the condition to another
// Service, or adding addresses to the status, has no effect: a record is valid for one UID and for
// the addresses that it names. The package is pure.
//
// The message is six fields, separated by single spaces:
//
//	v1 KEY UID REQUEST ADDRESSES SIGNATURE
//
// KEY is the fingerprint of the key that signed, REQUEST is what the Service asked for (see
// Request), ADDRESSES are separated by commas, "-" for none, and SIGNATURE is the HMAC-SHA256 (RFC
// 2104) of a fixed prefix and the fields before it, in unpadded base64url (RFC 4648 section 5).
package record

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
)

const (
	version = "v1"
	fields  = 6
	// purpose keeps signatures of records apart from other signatures with the key.
	purpose = "berth.dev/Record\n"
	// longest is more than any record has: a longer text is not parsed.
	longest = 1024
	// mostAddresses is one of each family.
	mostAddresses = 2
	// reason of the condition.
	reason = "Given"
	none   = "-"
)

// Record is what Berth gave a Service.
type Record struct {
	// UID of the Service.
	UID types.UID
	// Request is the digest of what the Service asked for when it got the addresses: see RequestOf.
	Request string
	// Addresses that it got, at most one of each family.
	Addresses []netip.Addr
}

// ErrNone means that a Service has no record.
var ErrNone = errors.New("the Service has no condition " + v1alpha1.ServiceRecord)

// ForgedError means that the key named in a record did not sign it, or that the record is of
// another Service.
type ForgedError struct{ Why string }

func (e *ForgedError) Error() string { return "condition " + v1alpha1.ServiceRecord + ": " + e.Why }

// UnknownKeyError means that a record was signed with another key than ours, by a former
// installation for example. Record has its content, unverified.
type UnknownKeyError struct{ Record Record }

func (e *UnknownKeyError) Error() string {
	return "condition " + v1alpha1.ServiceRecord + " is signed with an unknown key"
}

// Of returns the record in the conditions of the Service. The error is ErrNone, *ForgedError,
// *UnknownKeyError, or says what cannot be parsed.
func Of(svc *corev1.Service, key []byte) (Record, error) {
	i := slices.IndexFunc(
		svc.Status.Conditions,
		func(c metav1.Condition) bool { return c.Type == v1alpha1.ServiceRecord },
	)
	if i < 0 {
		return Record{}, ErrNone
	}
	return Read(svc.Status.Conditions[i].Message, svc.UID, key)
}

// Read returns the record in a text, the message of the condition of a Service with that UID. The
// errors are those of Of.
func Read(message string, uid types.UID, key []byte) (Record, error) {
	r, by, err := parse(message)
	switch {
	case err != nil:
		return Record{}, err
	case r.UID != uid:
		return Record{}, &ForgedError{"it is that of another Service"}
	case by != fingerprint(key):
		return Record{}, &UnknownKeyError{r}
	case !hmac.Equal([]byte(r.sign(key)), []byte(message)):
		return Record{}, &ForgedError{"its signature does not hold"}
	}
	return r, nil
}

// Condition returns the record as a condition, signed with the key.
func (r Record) Condition(key []byte, now metav1.Time) metav1.Condition {
	return metav1.Condition{
		Type:               v1alpha1.ServiceRecord,
		Status:             metav1.ConditionTrue,
		Reason:             reason,
		Message:            r.sign(key),
		LastTransitionTime: now,
	}
}

// Equal reports whether two records have the same content.
func (r Record) Equal(other Record) bool {
	return r.UID == other.UID && r.Request == other.Request &&
		slices.Equal(sorted(r.Addresses), sorted(other.Addresses))
}

// sign returns the text of the record.
func (r Record) sign(key []byte) string {
	addresses := none
	if len(r.Addresses) > 0 {
		var texts []string
		for _, a := range sorted(r.Addresses) {
			texts = append(texts, a.String())
		}
		addresses = strings.Join(texts, ",")
	}
	text := strings.Join([]string{version, fingerprint(key), string(r.UID), r.Request, addresses}, " ")
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(purpose + text)) // a hash never fails to be written
	return text + " " + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// parse returns the record in a text, and the fingerprint of the key that signed it. It does not
// check the signature.
func parse(text string) (r Record, key string, err error) {
	bad := func(what string) (Record, string, error) {
		return Record{}, "", fmt.Errorf("condition %s: %s", v1alpha1.ServiceRecord, what)
	}
	if len(text) > longest {
		return bad("its message is too long")
	}
	parts := strings.Split(text, " ")
	if len(parts) != fields || parts[0] != version {
		return bad("its message is not six fields that begin with " + version)
	}
	r = Record{UID: types.UID(parts[2]), Request: parts[3]}
	if r.UID == "" || r.Request == "" || parts[1] == "" {
		return bad("a field of its message is empty")
	}
	if parts[4] == none {
		return r, parts[1], nil
	}
	for text := range strings.SplitSeq(parts[4], ",") {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.Is4In6() || a.String() != text {
			return bad("an address of its message is not in its usual form")
		}
		r.Addresses = append(r.Addresses, a)
	}
	if len(r.Addresses) > mostAddresses || !slices.IsSortedFunc(r.Addresses, netip.Addr.Compare) {
		return bad("the addresses of its message are too many, or not ascending")
	}
	return r, parts[1], nil
}

// RequestOf returns the digest of the pools that a Service names in its annotation. It shows
// whether the annotation was edited since: an edit may take an address away, an edit of a pool may
// not.
func RequestOf(pools []string) string {
	sum := sha256.Sum256([]byte(strings.Join(pools, ",")))
	return hex.EncodeToString(sum[:4])
}

func fingerprint(key []byte) string { return v1alpha1.Fingerprint(key) }

func sorted(addresses []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(addresses), netip.Addr.Compare)
}
