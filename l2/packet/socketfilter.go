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

// socketFilter is the filter of one socket as addresses come and go. It never rejects what concerns
// an allowed address: a new address widens it at once, by a short program, and what that passes
// besides is narrowed later.
type socketFilter struct {
	socket  bpf.Setter
	program func([]span) []bpf.Instruction

	mu    sync.Mutex
	addrs map[netip.Addr]int // guarded by mu; how often each is allowed
	cover []span             // guarded by mu; what the kernel's program passes
	tight bool               // guarded by mu; cover is what narrow would make it
	short bool               // guarded by mu; cover lacks an allowed address
}

// newSocketFilter returns the filter of a socket that passes nothing yet.
func newSocketFilter(socket bpf.Setter, program func([]span) []bpf.Instruction) *socketFilter {
	return &socketFilter{socket: socket, program: program, addrs: make(map[netip.Addr]int), tight: true}
}

// allow lets frames about addr pass. If that fails, call retry later.
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

// widen passes everything from the lowest to the highest key, including k, and more around it,
// because neighboring addresses often follow. p.mu is held.
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

// disallow undoes one allow. It takes effect when the filter is narrowed.
func (p *socketFilter) disallow(addr netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addrs[addr]--; p.addrs[addr] <= 0 {
		delete(p.addrs, addr)
		p.tight = false
	}
}

// narrow passes only what is allowed, as closely as a program can. If it fails the filter still
// passes too much.
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

// retry allows what allow could not.
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

// keys returns the keys of all allowed addresses. p.mu is held.
func (p *socketFilter) keys() []uint32 {
	keys := make([]uint32, 0, len(p.addrs))
	for addr := range p.addrs {
		keys = append(keys, key(addr))
	}
	return keys
}

// install attaches a program for cover. p.mu is held.
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
