// Package community reads and writes BGP communities as operators write them. It knows nothing
// of GoBGP: the configuration checks them with it, and the driver sends them.
package community

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Community is a standard (RFC 1997) or a large (RFC 8092) community.
type Community struct {
	Large bool
	// Global is the global administrator of a large community, and 0 for a standard one.
	Global uint32
	// A and B are the two halves of a standard community, each below 65536, or the local data of a
	// large one.
	A, B uint32
}

// GracefulShutdown asks for a route to be used only where there is no other (RFC 8326).
var GracefulShutdown = Community{A: 0xffff}

// wellKnown are names of the IANA registry of well-known communities.
var wellKnown = map[string]Community{
	"graceful-shutdown":   GracefulShutdown,
	"accept-own":          {A: 0xffff, B: 1},      // RFC 7611
	"blackhole":           {A: 0xffff, B: 0x029a}, // RFC 7999
	"no-export":           {A: 0xffff, B: 0xff01}, // this and the next two: RFC 1997
	"no-advertise":        {A: 0xffff, B: 0xff02},
	"no-export-subconfed": {A: 0xffff, B: 0xff03},
	"no-peer":             {A: 0xffff, B: 0xff04}, // RFC 3765
}

// Parse reads "65000:100", "65000:1:2" or the name of a well-known community.
func Parse(text string) (Community, error) {
	if c, ok := wellKnown[text]; ok {
		return c, nil
	}
	parts := strings.Split(text, ":")
	bits := 16
	if len(parts) == 3 {
		bits = 32
	}
	numbers := make([]uint32, 0, 3)
	for _, part := range parts {
		n, err := strconv.ParseUint(part, 10, bits)
		if err != nil || part != strconv.FormatUint(n, 10) {
			numbers = nil
			break
		}
		numbers = append(numbers, uint32(n))
	}
	switch len(numbers) {
	case 2:
		return Community{A: numbers[0], B: numbers[1]}, nil
	case 3:
		return Community{Large: true, Global: numbers[0], A: numbers[1], B: numbers[2]}, nil
	}
	return Community{}, fmt.Errorf("%q is not a valid community; write two numbers up to 65535 (65000:100), three up to 4294967295 (65000:1:2), or a name such as no-export", text)
}

// String writes what Parse reads, without names.
func (c Community) String() string {
	if c.Large {
		return fmt.Sprintf("%d:%d:%d", c.Global, c.A, c.B)
	}
	return fmt.Sprintf("%d:%d", c.A, c.B)
}

// Standard returns the four bytes of a standard community.
func (c Community) Standard() uint32 { return c.A<<16 | c.B }

// Compare orders communities: standard ones first, then by number.
func Compare(a, b Community) int {
	switch {
	case a.Large == b.Large:
	case b.Large:
		return -1
	default:
		return 1
	}
	return cmp.Or(cmp.Compare(a.Global, b.Global), cmp.Compare(a.A, b.A), cmp.Compare(a.B, b.B))
}
