package packet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// passage is the filter of one socket as addresses come and go. It never keeps away what concerns an open one: an
// address that comes widens it at once, by a short program, and what it then passes beside is narrowed later.
type socketFilter struct {
	socket  bpf.Setter
	program func([]span) []bpf.Instruction

	mu    sync.Mutex
	addrs map[netip.Addr]int // guarded by mu; how often each is open
	cover []span             // guarded by mu; what the kernel's program passes
	tight bool               // guarded by mu; cover is what narrow would make it
	short bool               // guarded by mu; cover lacks what is open
}

// newPassage is for a socket whose filter passes nothing.
func newSocketFilter(socket bpf.Setter, program func([]span) []bpf.Instruction) *socketFilter {
	return &socketFilter{socket: socket, program: program, addrs: make(map[netip.Addr]int), tight: true}
}

// open lets frames about addr pass. Where that fails, mend tries again.
func (p *socketFilter) allow(addr netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addrs[addr]++; p.addrs[addr] > 1 {
		return nil
	}
	p.tight = false
	err := p.widen(key(addr))
	p.short = p.short || err != nil
	return err
}

// widen passes all from the lowest to the highest key, k included, and more around it: neighbours follow. p.mu is
// held.
func (p *socketFilter) widen(k uint32) error {
	if within(p.cover, k) {
		return nil
	}
	const around = 1<<8 - 1
	wide := span{k &^ around, k | around}
	if n := len(p.cover); n > 0 {
		wide = span{min(wide.low, p.cover[0].low), max(wide.high, p.cover[n-1].high)}
	}
	return p.install([]span{wide})
}

// shut undoes one open, when it is narrowed.
func (p *socketFilter) disallow(addr netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addrs[addr]--; p.addrs[addr] <= 0 {
		delete(p.addrs, addr)
		p.tight = false
	}
}

// narrow lets only pass what is open, as closely as a program can. It fails only to narrow.
func (p *socketFilter) narrow() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tight {
		return nil
	}
	keys := p.keys()
	for limit := maxSpans; ; limit /= 2 {
		cover := spansOf(keys, limit)
		if !slices.Equal(cover, p.cover) {
			err := p.install(cover)
			if errors.Is(err, unix.ENOMEM) && limit > 1 {
				continue // this kernel grants less
			}
			if err != nil {
				return err
			}
		}
		p.tight, p.short = true, false
		return nil
	}
}

// mend opens what open could not.
func (p *socketFilter) retry() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.short {
		return nil
	}
	for addr := range p.addrs {
		if err := p.widen(key(addr)); err != nil {
			return err
		}
	}
	p.short = false
	return nil
}

// keys returns those of all open addresses. p.mu is held.
func (p *socketFilter) keys() []uint32 {
	keys := make([]uint32, 0, len(p.addrs))
	for addr := range p.addrs {
		keys = append(keys, key(addr))
	}
	return keys
}

// install gives the kernel a program for cover. p.mu is held.
func (p *socketFilter) install(cover []span) error {
	raw, err := bpf.Assemble(p.program(cover))
	if err != nil {
		return fmt.Errorf("assemble a filter of %d spans: %w", len(cover), err)
	}
	if err := p.socket.SetBPF(raw); err != nil {
		return fmt.Errorf("set a filter of %d instructions: %w", len(raw), err)
	}
	p.cover = cover
	return nil
}
