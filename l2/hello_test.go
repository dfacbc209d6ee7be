package l2

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func aHello() hello {
	return hello{
		node: "node-a", boot: 0x0102030405060708, sequence: 7, interval: 100 * time.Millisecond,
		state: Ready, mac: [6]byte{2, 0, 0, 0, 0, 1},
	}
}

func TestAHelloSurvivesItsSealing(t *testing.T) {
	for _, node := range []string{"a", "node-a", strings.Repeat("n", maxNodeName)} {
		h := aHello()
		h.node = node
		payload := h.seal([]byte("key"))
		if len(payload) < 46 {
			t.Errorf("a hello of %d bytes would be padded by Ethernet", len(payload))
		}
		got, err := openHello(payload, Keys{Sign: []byte("key")})
		if err != nil || got != h {
			t.Errorf("opened %+v, %v; want %+v", got, err, h)
		}
	}
}

func TestTheFormatOfAHelloIsFixed(t *testing.T) {
	want := []byte("BRTH\x01\x01\x00\x64\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x00\x00\x00\x00\x07\x02\x00\x00\x00\x00\x01\x06node-a")
	if got := aHello().seal([]byte("key")); !bytes.Equal(got[:len(got)-32], want) {
		t.Errorf("sealed\n%q, want\n%q", got[:len(got)-32], want)
	}
}

func TestAHelloThatIsNotAsSealedIsRejected(t *testing.T) {
	key := []byte("key")
	sealed := func(change func(*hello)) []byte {
		h := aHello()
		change(&h)
		return h.seal(key)
	}
	good := sealed(func(*hello) {})
	flipped := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		payload, key []byte
		want         rejection
	}{
		"empty":                 {nil, key, rejectLength},
		"too short":             {good[:20], key, rejectLength},
		"cut by one":            {good[:len(good)-1], key, rejectLength},
		"one more byte":         {append(bytes.Clone(good), 0), key, rejectLength},
		"longer than any":       {make([]byte, maxHello+1), key, rejectLength},
		"another magic":         {flipped(0), key, rejectVersion},
		"another version":       {flipped(4), key, rejectVersion},
		"a lying name length":   {flipped(helloFixed - 1), key, rejectLength},
		"another state":         {flipped(5), key, rejectHMAC},
		"another boot":          {flipped(8), key, rejectHMAC},
		"another sequence":      {flipped(23), key, rejectHMAC},
		"another MAC":           {flipped(24), key, rejectHMAC},
		"another name":          {flipped(helloFixed), key, rejectHMAC},
		"another signature":     {flipped(len(good) - 1), key, rejectHMAC},
		"another key":           {good, []byte("yek"), rejectHMAC},
		"no key here":           {good, nil, rejectNoKey},
		"no name":               {sealed(func(h *hello) { h.node = "" }), key, rejectLength},
		"an unknown state":      {sealed(func(h *hello) { h.state = 4 }), key, rejectField},
		"an interval too short": {sealed(func(h *hello) { h.interval = 9 * time.Millisecond }), key, rejectField},
		"an interval too long":  {sealed(func(h *hello) { h.interval = 11 * time.Second }), key, rejectField},
	} {
		if _, err := openHello(c.payload, Keys{Sign: c.key}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzOpenHello(f *testing.F) {
	key := []byte("key")
	f.Add(aHello().seal(key))
	f.Add(aHello().seal([]byte("another")))
	f.Add([]byte(helloMagic))
	f.Add(bytes.Repeat([]byte{0xff}, maxHello))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := openHello(b, Keys{Sign: key}); err == nil && !bytes.Equal(h.seal(key), b) {
			t.Errorf("%x opens as %+v, which seals differently", b, h)
		}
		// As if whoever sends it held the key: the fields are checked all the same.
		if len(b) > maxHello {
			return
		}
		if h, err := openHello(sum(bytes.Clone(b), b, key), Keys{Sign: key}); err == nil && (len(h.node) == 0 || h.state > Restarting || h.interval < minHelloInterval) {
			t.Errorf("accepted %+v", h)
		}
	})
}
