//go:build !race

// GoBGP v4.8.0 reads a peer's configuration without its lock while another session ends and its
// routes are withdrawn, which the race detector sees here. So this test runs without it (see the
// Makefile).

package bgp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// malformed are messages that a router has no right to send on an established session. Where the AS
// path is not what is wrong, it is this one.
func malformed(path []byte) map[string][]byte {
	full := func(more ...[]byte) [][]byte {
		return slices.Concat([][]byte{okOrigin, path, okHop}, more)
	}
	header := func(change func([]byte)) []byte {
		m := update(nil, full(), okPrefix...)
		change(m)
		return m
	}
	length := func(n uint16) []byte {
		return header(func(m []byte) { binary.BigEndian.PutUint16(m[16:], n) })
	}
	garbage := func(n int) []byte {
		r := rand.New(rand.NewPCG(1, uint64(n)))
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	list := map[string][]byte{
		"a marker that is none":           header(func(m []byte) { m[3] = 0 }),
		"length 0":                        length(0),
		"length 18":                       length(18),
		"length 4097":                     length(4097),
		"length 65535":                    length(65535),
		"a length beyond what comes":      length(300),
		"type 0":                          message(0),
		"type 6":                          message(6, 1, 2, 3),
		"type 255":                        message(255, garbage(40)...),
		"an OPEN in the session":          (&rogue{address: netip.MustParseAddr("10.1.1.1"), asn: 64000}).open(),
		"a KEEPALIVE with a body":         message(4, 1, 2, 3),
		"a NOTIFICATION without a code":   message(3),
		"a NOTIFICATION of unknown codes": message(3, 99, 99, 1, 2, 3),
		"a shutdown word beyond its end":  message(3, 6, 2, 200, 'x'),
		"a short ROUTE-REFRESH":           message(5, 0),
		"a ROUTE-REFRESH of no family":    message(5, 0, 99, 0, 99),
		"a ROUTE-REFRESH of no kind":      message(5, 0, 1, 77, 1),
		"an empty UPDATE body":            message(2),
		"withdrawn length beyond the end": message(2, 0xff, 0xff, 0, 0),
		"attribute length beyond the end": message(2, 0, 0, 0xff, 0xff),
		"withdrawn prefix of 33 bits":     update([]byte{33, 1, 2, 3, 4, 5}, nil),
		"withdrawn prefix cut off":        update([]byte{24, 1}, nil),
		"prefix of 255 bits":              update(nil, full(), bytes.Repeat([]byte{255}, 40)...),
		"prefix cut off":                  update(nil, full(), 32, 1, 2),
		"no attributes":                   update(nil, nil, okPrefix...),
		"no AS_PATH":                      update(nil, [][]byte{okOrigin, okHop}, okPrefix...),
		"no next hop":                     update(nil, [][]byte{okOrigin, path}, okPrefix...),
		"everything twice":                update(nil, full(okOrigin, path, okHop), okPrefix...),
		"AS4_PATH before AS_PATH": update(
			nil,
			[][]byte{okOrigin, attribute(0xc0, 17, 2, 1, 0, 0, 0xfc, 0x10), path, okHop},
			okPrefix...),
		"AS4_PATH without AS_PATH": update(nil, [][]byte{attribute(0xc0, 17, 2, 1, 0, 0, 0xfc, 0x10)}),
		"AS4_PATH alone with a prefix": update(
			nil,
			[][]byte{okOrigin, attribute(0xc0, 17, 2, 1, 0, 0, 0xfc, 0x10), okHop},
			okPrefix...),
		"AS4_PATH longer than AS_PATH": update(
			nil,
			full(attribute(0xc0, 17, 2, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3)),
			okPrefix...),
		"AS4_PATH cut off":      update(nil, full(attribute(0xc0, 17, 2, 9, 0, 0)), okPrefix...),
		"AGGREGATOR of 3 bytes": update(nil, full(attribute(0xc0, 7, 1, 2, 3)), okPrefix...),
		"AS4_AGGREGATOR alone":  update(nil, full(attribute(0xc0, 18, 0, 0, 0, 1, 1, 1, 1, 1)), okPrefix...),
		"AS_PATH of an unknown segment": update(
			nil,
			[][]byte{okOrigin, attribute(0x40, 2, 9, 1, 0, 0, 0, 1), okHop},
			okPrefix...),
		"AS_PATH segment cut off": update(
			nil,
			[][]byte{okOrigin, attribute(0x40, 2, 2, 255, 0, 0, 0, 1), okHop},
			okPrefix...),
		"AS_PATH segment of none": update(nil, [][]byte{okOrigin, attribute(0x40, 2, 2, 0), okHop}, okPrefix...),
		"AS_PATH of one byte":     update(nil, [][]byte{okOrigin, attribute(0x40, 2, 2), okHop}, okPrefix...),
		"next hop of 3 bytes":     update(nil, [][]byte{okOrigin, path, attribute(0x40, 3, 1, 2, 3)}, okPrefix...),
		"next hop of 16 bytes": update(
			nil,
			[][]byte{okOrigin, path, attribute(0x40, 3, make([]byte, 16)...)},
			okPrefix...),
		"ORIGIN of no byte":            update(nil, [][]byte{attribute(0x40, 1), path, okHop}, okPrefix...),
		"ORIGIN 200":                   update(nil, [][]byte{attribute(0x40, 1, 200), path, okHop}, okPrefix...),
		"an attribute cut off":         update(nil, full([]byte{0x40}), okPrefix...),
		"an attribute longer than all": update(nil, full([]byte{0xc0, 8, 255, 1}), okPrefix...),
		"a long length of one byte":    update(nil, full([]byte{0xd0, 8, 0}), okPrefix...),
		"4096 bytes of prefixes": update(
			nil,
			full(),
			bytes.Repeat([]byte{0}, 4096-23-len(slices.Concat(full()...)))...),
		"an UPDATE of 6000 bytes": update(nil, full(attribute(0xd0, 99, garbage(6000)...)), okPrefix...),
	}
	// Every attribute there is or is not, too short, too long, and of noise.
	for kind := range 256 {
		list[fmt.Sprintf("attribute %d of no byte", kind)] = update(nil, full(attribute(0xc0, byte(kind))), okPrefix...)
		list[fmt.Sprintf("attribute %d of one byte", kind)] = update(nil, full(attribute(0x80, byte(kind), 7)), okPrefix...)
		list[fmt.Sprintf("attribute %d of noise", kind)] = update(
			nil,
			full(attribute(0xd0, byte(kind), garbage(300+kind)...)),
			okPrefix...)
	}
	// MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760) of every kind of family.
	for _, family := range []uint32{
		0x000101, 0x000102, 0x000104, 0x000180, 0x000184, 0x000185, 0x000201, 0x000281, 0x001941, 0x001946, 0x400447,
		0x000149, 0xffffff, 0x400d01,
	} {
		head := []byte{byte(family >> 16), byte(family >> 8), byte(family)}
		for name, body := range map[string][]byte{
			"nothing":             {},
			"a next hop of 0":     {0, 0, 128, 0x20},
			"a next hop of 255":   {255, 1, 2, 3},
			"a prefix of 129":     slices.Concat([]byte{16}, make([]byte, 16), []byte{0, 129}, make([]byte, 17)),
			"noise":               slices.Concat([]byte{16}, make([]byte, 17), garbage(200)),
			"noise of other size": slices.Concat([]byte{4, 1, 2, 3, 4, 0}, garbage(201)),
		} {
			list[fmt.Sprintf("MP_REACH_NLRI of %06x: %s", family, name)] =
				update(nil, [][]byte{okOrigin, path, attribute(0x90, 14, append(slices.Clone(head), body...)...)})
			list[fmt.Sprintf("MP_UNREACH_NLRI of %06x: %s", family, name)] =
				update(nil, [][]byte{attribute(0x90, 15, append(slices.Clone(head), body...)...)})
		}
	}
	return list
}

// mutated are n UPDATE messages with this AS path and some bytes changed, of which the length in
// the header is right.
func mutated(path []byte, seed uint64, n int) [][]byte {
	r := rand.New(rand.NewPCG(seed, 5))
	v6 := slices.Concat([]byte{0, 2, 1, 16}, make([]byte, 16), []byte{0, 64, 32, 1, 13, 184, 0, 0, 0, 1})
	originals := [][]byte{
		update(
			[]byte{24, 198, 51, 100},
			[][]byte{okOrigin, path, okHop, attribute(0xc0, 8, 1, 2, 3, 4), attribute(0xc0, 16, 0, 2, 0, 1, 0, 0, 0, 9)},
			okPrefix...),
		update(nil, [][]byte{okOrigin, path, attribute(0x90, 14, v6...), attribute(0xc0, 32, make([]byte, 24)...)}),
		update(
			nil,
			[][]byte{
				okOrigin,
				path,
				okHop,
				attribute(0xc0, 7, 0, 0, 0, 1, 1, 1, 1, 1),
				attribute(0xc0, 17, 2, 1, 0, 0, 0, 1),
				attribute(0x80, 4, 0, 0, 0, 1),
			},
			okPrefix...),
		update(nil, [][]byte{attribute(0x90, 15, 0, 2, 1, 64, 32, 1, 13, 184, 0, 0, 0, 1)}),
	}
	var list [][]byte
	for range n {
		m := slices.Clone(originals[r.IntN(len(originals))])
		for range 1 + r.IntN(4) {
			m[19+r.IntN(len(m)-19)] = []byte{0, 1, 2, 0x7f, 0x80, 0xff, byte(r.Uint32())}[r.IntN(7)]
		}
		list = append(list, m)
	}
	return list
}

// answers are the NOTIFICATIONs that end the session (RFC 4271 section 6.1). What is wrong in an
// UPDATE is not read.
var answers = map[string][2]byte{
	"a marker that is none": {1, 1},
	"length 18":             {1, 2},
	"type 6":                {1, 3},
}

// attack establishes a session, sends messages as far as the driver lets it, and waits for it to
// close the connection.
func (r *rogue) attack(messages [][]byte) (code, subcode byte, err error) {
	defer r.listener.Close()
	conn, err := r.establish()
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, 0, err
	}
	go func() { // ends when all is sent, or with the connection
		for _, m := range messages {
			if _, err := conn.Write(m); err != nil {
				return // the driver has had enough
			}
		}
		_ = conn.CloseWrite() // or the driver has closed it
	}()
	return r.drain(conn)
}

// TestNoMessageOfAPeerHarmsTheDriverOrAnotherSession gives each list of messages to a session of
// its own.
func TestNoMessageOfAPeerHarmsTheDriverOrAnotherSession(t *testing.T) {
	atOnce(t)
	type attack struct {
		name     string
		messages [][]byte
		twoBytes bool
	}
	var attacks []attack
	for _, twoBytes := range []bool{false, true} {
		path := okPath
		if twoBytes {
			path = shortPath
		}
		for name, m := range malformed(path) {
			attacks = append(attacks, attack{name, [][]byte{m}, twoBytes})
		}
		for seed := range uint64(100) {
			attacks = append(attacks, attack{fmt.Sprintf("mutations of seed %d", seed), mutated(path, seed, 50), twoBytes})
		}
	}
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	d := run(t, quiet)
	witness := tor.peer("tor", nodeASN)
	d.SyncPeers([]Peer{witness})
	d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8::1/128"))
	tor.has(t, "192.0.2.1/32", "2001:db8::1/128")
	d.up(t, "tor")
	since := d.session(t, "tor").Since

	// In waves, as so many sessions at a time are enough for two processors.
	for wave := range slices.Chunk(attacks, 400) {
		peers := []Peer{witness}
		var sessions sync.WaitGroup
		for i, a := range wave {
			r := newRogue(t, fmt.Sprintf("127.0.%d.%d", 1+i/250, 1+i%250), 64528)
			r.twoBytes = a.twoBytes
			peers = append(peers, r.peer(fmt.Sprintf("rogue-%d", i)))
			sessions.Go(func() {
				code, subcode, err := r.attack(a.messages)
				if err != nil {
					t.Errorf("%s (two bytes %v): %v", a.name, a.twoBytes, err)
				}
				if want, ok := answers[a.name]; ok && want != [2]byte{code, subcode} {
					t.Errorf("%s (two bytes %v): NOTIFICATION %d/%d, want %d", a.name, a.twoBytes, code, subcode, want)
				}
			})
		}
		d.SyncPeers(peers)
		sessions.Wait()
	}
	d.SyncPeers([]Peer{witness})
	d.Sync("web", routes(nil, "192.0.2.2/32", "2001:db8::1/128"))
	tor.has(t, "192.0.2.2/32", "2001:db8::1/128")
	if s := d.session(t, "tor"); !s.Established() || !s.Since.Equal(since) {
		t.Errorf("the other session is %s since %s, want established since %s", s.State, s.Since, since)
	}
	if ended := tor.ended(); len(ended) > 0 {
		t.Errorf("the other router saw its session end: %v", ended)
	}
	for _, family := range families {
		found, err := d.owner.server.paths(family)
		must(t, err)
		if len(found) != 1 {
			t.Errorf("%s: the table has %d prefixes, want our own one: %v", family, len(found), found)
		}
	}
}
