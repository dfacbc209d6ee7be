package election

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var whole = cmp.AllowUnexported(Message{}, claimList{}, claimEntry{}, claim{})

// key returns the n-th of many addresses.
func key(n int) addressKey { return keyOf(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)})) }

func someMessages() []Message {
	head := Message{
		Node: "node-1", Cluster: 5, Boot: 0x0102030405060708, sequence: 42, interval: 100 * time.Millisecond,
		state: Ready, digest: 7, MAC: [6]byte{2, 0, 0, 0, 0, 1}, capabilities: 0x8105,
		age: 12300 * time.Millisecond,
	}
	kinds := []Message{
		{kind: kindHello},
		{kind: kindPull, to: 9},
		{kind: kindChallenge, to: 9, nonce: 10},
		{kind: kindProof, to: 9, nonce: 10},
		{kind: kindEcho, to: 9, nonce: 10},
		{kind: kindClaims, claims: claimList{whole: true, from: key(1), to: key(2)}},
		{kind: kindClaims, claims: claimList{entries: []claimEntry{
			{address: key(1), claim: claim{term: 1 << 40, witnessed: true, offered: true}},
			{address: key(2), claim: claim{relayed: true}},
			{address: key(3), removed: true},
		}}},
	}
	for i, k := range kinds {
		m := head
		m.kind, m.to, m.nonce, m.claims = k.kind, k.to, k.nonce, k.claims
		kinds[i] = m
	}
	return kinds
}

func TestMessageSealOpen(t *testing.T) {
	for _, m := range someMessages() {
		got, err := OpenMessage(m.Seal([]byte("key")), 5, Keys{Sign: []byte("key")})
		if diff := cmp.Diff(m, got, whole); err != nil || diff != "" {
			t.Errorf("kind %d: %v, (-want +got):\n%s", m.kind, err, diff)
		}
	}
}

func TestMessageFormat(t *testing.T) {
	// Speakers of different versions must understand each other: these sums never change.
	for i, want := range []struct{ now, first string }{
		{"30b9", "6fc5"}, {"8a7e", "05b9"}, {"f8d4", "dba3"}, {"ec3a", "1347"}, {"bc07", "c5f3"},
		{"1511", "7609"}, {"476f", "a7c9"},
	} {
		m := someMessages()[i]
		sealed := m.Seal([]byte("key"))
		for _, c := range []struct {
			version string
			payload []byte
			want    string
		}{{"this version", sealed, want.now}, {"the first version", asFirstSent(sealed), want.first}} {
			sum := sha256.Sum256(c.payload)
			if got := fmt.Sprintf("%x", sum[:2]); got != c.want {
				t.Errorf("kind %d: the message of %s has sum %s, want %s", m.kind, c.version, got, c.want)
			}
		}
	}
}

// asFirstSent is a sealed message as the first version sent it: without what was appended since.
func asFirstSent(sealed []byte) []byte {
	b := bytes.Clone(sealed[:len(sealed)-sha256.Size-capabilityBytes-ageBytes])
	return sign(b, b, []byte("key"))
}

func TestOpenMessageOfFirstVersion(t *testing.T) {
	for _, m := range someMessages() {
		got, err := OpenMessage(asFirstSent(m.Seal([]byte("key"))), 5, Keys{Sign: []byte("key")})
		m.capabilities, m.age = 0, ageUnknown
		if diff := cmp.Diff(m, got, whole); err != nil || diff != "" {
			t.Errorf("kind %d: %v, (-want +got):\n%s", m.kind, err, diff)
		}
	}
}

func TestOpenMessageCapabilitiesAreSigned(t *testing.T) {
	b := someMessages()[0].Seal([]byte("key"))
	b[len(b)-sha256.Size-1] ^= 1
	if _, err := OpenMessage(b, 5, Keys{Sign: []byte("key")}); !errors.Is(err, RejectHMAC) {
		t.Errorf("with one changed: %v, want %v", err, RejectHMAC)
	}
}

func TestOpenMessageOfLaterVersion(t *testing.T) {
	for _, m := range someMessages() {
		b := m.Seal([]byte("key"))
		longer := slices.Concat(b[:len(b)-sha256.Size], []byte("what is new"))
		got, err := OpenMessage(sign(longer, longer, []byte("key")), 5, Keys{Sign: []byte("key")})
		if diff := cmp.Diff(m, got, whole); err != nil || diff != "" {
			t.Errorf("kind %d with something appended: %v, (-want +got):\n%s", m.kind, err, diff)
		}
	}
	unknown := someMessages()[0]
	unknown.kind = 99
	if got, err := OpenMessage(unknown.Seal([]byte("key")), 5, Keys{Sign: []byte("key")}); err != nil ||
		got.kind != 99 {
		t.Errorf("a kind of later: %v; want a sign of life", err)
	}
}

func TestOpenMessageAcceptsEachKey(t *testing.T) {
	b := someMessages()[0].Seal([]byte("new"))
	if _, err := OpenMessage(b, 5, Keys{Sign: []byte("old"), Accept: [][]byte{[]byte("new")}}); err != nil {
		t.Errorf("signed with the key that is accepted: %v", err)
	}
	if _, err := OpenMessage(b, 5, Keys{Sign: []byte("old")}); !errors.Is(err, RejectHMAC) {
		t.Errorf("signed with another key: %v, want %v", err, RejectHMAC)
	}
}

func TestOpenMessageRejects(t *testing.T) {
	good := someMessages()[0].Seal([]byte("key"))
	damaged := func(change func([]byte) []byte) []byte { return change(bytes.Clone(good)) }
	resealed := func(change func(*Message)) []byte {
		m := someMessages()[0]
		change(&m)
		return m.Seal([]byte("key"))
	}
	forged := func(at int, b byte) []byte {
		body := bytes.Clone(good[:len(good)-sha256.Size])
		body[at] = b
		return sign(body, body, []byte("key"))
	}
	for _, c := range []struct {
		name    string
		payload []byte
		keys    Keys
		want    error
	}{
		{"no key", good, Keys{}, RejectNoKey},
		{"empty", nil, Keys{Sign: []byte("key")}, RejectLength},
		{"short", good[:minMessage-1], Keys{Sign: []byte("key")}, RejectLength},
		{"not ours", damaged(func(b []byte) []byte { b[0] = 'X'; return b }), Keys{Sign: []byte("key")}, RejectVersion},
		{"another version", damaged(func(b []byte) []byte {
			b[4]++
			return b
		}), Keys{Sign: []byte("key")}, RejectVersion},
		{"another cluster", resealed(func(m *Message) { m.Cluster = 6 }), Keys{Sign: []byte("key")}, RejectCluster},
		{"another key", good, Keys{Sign: []byte("other")}, RejectHMAC},
		{"one bit", damaged(func(b []byte) []byte { b[20] ^= 1; return b }), Keys{Sign: []byte("key")}, RejectHMAC},
		{"a name beyond the end", forged(messageFixed-1, 200), Keys{Sign: []byte("key")}, RejectLength},
		{"no name", forged(messageFixed-1, 0), Keys{Sign: []byte("key")}, RejectLength},
		{"a body beyond the end", forged(messageFixed+len("node-1"), 1), Keys{Sign: []byte("key")}, RejectLength},
		{"an impossible interval", resealed(func(m *Message) {
			m.interval = time.Millisecond
		}), Keys{Sign: []byte("key")}, RejectField},
		{"an impossible state", resealed(func(m *Message) { m.state = 9 }), Keys{Sign: []byte("key")}, RejectField},
	} {
		if _, err := OpenMessage(c.payload, 5, c.keys); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func FuzzOpenMessage(f *testing.F) {
	keys := Keys{Sign: []byte("key")}
	for _, m := range someMessages() {
		b := m.Seal(keys.Sign)
		// As the first version sent it, with half of the capabilities, and with all.
		for appended := range capabilityBytes + ageBytes + 1 {
			f.Add(b[:len(b)-sha256.Size-capabilityBytes-ageBytes+appended])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = OpenMessage(b, 5, keys)
		// Invalid fields are rejected even if the sender has the key.
		signed := sign(bytes.Clone(b), b, keys.Sign)
		m, err := OpenMessage(signed, 5, keys)
		node, cluster, is := SenderOf(signed)
		if err != nil {
			return
		}
		if !is || node != m.Node || cluster != 5 {
			t.Errorf("without a key it is from %q of %d, %v, want %q", node, cluster, is, m.Node)
		}
		if m.Node == "" || m.state > Holding || m.interval < MinHelloInterval {
			t.Errorf("opened %+v", m)
		}
		if m.kind > kindEcho {
			return
		}
		m.age = max(m.age, 0) // unknown is not sent
		if again, err := OpenMessage(m.Seal(keys.Sign), 5, keys); err != nil || !cmp.Equal(m, again, whole) {
			t.Errorf("sealed again: %v %+v, want %+v", err, again, m)
		}
	})
}

func TestClaimSetParts(t *testing.T) {
	source, mirror := newClaimSet(), newClaimSet()
	for i := range 500 {
		mirror.put(key(1000+i), claim{term: 3})
		source.put(key(i), claim{term: uint64(i), witnessed: i%2 == 0})
	}
	parts := source.parts(50)
	for i, p := range parts {
		if len(p.entries) > 50 {
			t.Fatalf("part %d has %d claims", i, len(p.entries))
		}
		mirror.apply(p)
		mirror.apply(p) // repeated
	}
	if mirror.digest != source.digest || !cmp.Equal(mirror.claims, source.claims, whole) {
		t.Error("the parts do not make the set")
	}
	changed := mirror.apply(claimList{entries: []claimEntry{
		{address: key(1), removed: true}, {
			address: key(2),
			claim:   claim{term: 9},
		}, {address: key(2000), removed: true},
		{address: key(3), claim: source.claims[key(3)]},
	}})
	want := []addressKey{key(1), key(2)}
	slices.SortFunc(want, compareKeys)
	slices.SortFunc(changed, compareKeys)
	if !slices.Equal(changed, want) {
		t.Errorf("changed %x, want %x", changed, want)
	}
	source.remove(key(1))
	source.put(key(2), claim{term: 9})
	if mirror.digest != source.digest {
		t.Error("digests differ after a change")
	}
}

func TestClaimSetProbing(t *testing.T) {
	known, source := newClaimSet(), newClaimSet()
	for _, probing := range []bool{true, false} {
		c := claim{term: 7, witnessed: true, probing: probing}
		source.put(key(1), c)
		changed := known.apply(claimList{entries: []claimEntry{{address: key(1), claim: claimOf(c.term, c.flags())}}})
		if len(changed) != 1 || known.claims[key(1)] != c || known.digest != source.digest {
			t.Errorf("changed %v to %+v with digest %x, want %+v with digest %x",
				changed, known.claims[key(1)], known.digest, c, source.digest)
		}
	}
}
