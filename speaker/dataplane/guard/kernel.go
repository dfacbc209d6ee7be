//go:build linux

package guard

import (
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

// kernel is the table in the kernel of this network namespace.
type kernel struct{ *nft.Table }

func newKernel() kernel { return kernel{&nft.Table{Name: "berth-ipvs"}} }

// The rules, by the comments that nft shows. The first two are reasons in the metrics.
const (
	unexposed       = "unexposed"
	forbiddenSource = "source"
	reply           = "reply"
	reset           = "no endpoint: reset"
	unreachable     = "no endpoint: unreachable"
	mark            = "to masquerade"
	masquerade      = "masquerade"
	unknown         = "unknown connection"
	away            = "IPVS is away"
	jump            = "check"
	markOwn         = "own virtual server"
	taken           = "taken by IPVS"
)

// The chains.
const (
	prerouting  = "prerouting"
	output      = "output"
	input       = "input"
	own         = "own"
	marked      = "marked"
	check       = "check"
	postrouting = "postrouting"
)

// looking are the chains in which sources are looked up, one after the other.
var looking = [...]string{check, "check-2", "check-3"}

// beforeDNAT is after fragments were put together (-400) and connections looked up (-200), and
// before anything is rewritten: by kube-proxy's DNAT (-100), and by IPVS, which in hook output is
// beside it.
var beforeDNAT = nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 10)

// beforeIPVS is where what IPVS may take in hook input passes.
var beforeIPVS = nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 10)

// first is before anybody else who looks at marks, and at what leaves.
var first = nftables.ChainPriorityRef(*nftables.ChainPriorityConntrack - 100)

// afterIPVS is where what IPVS did not take goes on to the node's own sockets (it is at 98 and 99).
var afterIPVS = nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource + 1)

// family is the part of the table for one family of addresses.
type family struct{ nft.Family }

func (f family) bits() int { return int(f.Length) * 8 }

// stride is between lengths of prefixes that are looked up: 1 bit for IPv4, 4 for IPv6, which would
// have too many.
func (f family) stride() int { return f.bits() / 32 }

// lengths returns those of prefixes that are looked up, the longest first.
func (f family) lengths() []int {
	var all []int
	for bits := f.bits(); bits >= 0; bits -= f.stride() {
		all = append(all, bits)
	}
	return all
}

// sets returns the family's sets, empty.
func (k kernel) sets(f family) []*nftables.Set {
	set := func(name string, fields ...nftables.SetDatatype) *nftables.Set {
		s := k.Set(
			name+f.Suffix,
			nftables.MustConcatSetType(append([]nftables.SetDatatype{f.KeyType, nftables.TypeInetProto}, fields...)...),
		)
		s.Concatenation, s.KeyByteOrder = true, binaryutil.BigEndian
		return s
	}
	byMark := set(marks, nftables.TypeInetService)
	byMark.IsMap, byMark.DataType = true, nftables.TypeMark
	own := set(pods)
	own.KeyType, own.Interval = nftables.MustConcatSetType(nftables.TypeInetProto, f.KeyType), true
	all := []*nftables.Set{
		set(guarded), set(frontends, nftables.TypeInetService), set(restricted, nftables.TypeInetService),
		set(masqueraded, nftables.TypeInetService), set(refused, nftables.TypeInetService), byMark, own,
	}
	for _, bits := range f.lengths() {
		s := set("", nftables.TypeInetService, f.KeyType)
		s.Name = f.sources(bits)
		all = append(all, s)
	}
	return all
}

func (k kernel) Replace(elements []nft.Element) error {
	return k.Table.Replace(func(c *nftables.Conn) error {
		k.addChains(c)
		for _, its := range nft.Families {
			f := family{its}
			for _, set := range k.sets(f) {
				if err := c.AddSet(set, nil); err != nil {
					return fmt.Errorf("make set %s: %w", set.Name, err)
				}
			}
			k.addRule(c, check, unexposed, f.unexposed())
			k.addForbiddenSource(c, f)
			k.addRule(c, input, unknown, f.unknown())
			k.addRule(c, input, away, f.away())
			k.addRule(
				c,
				check,
				reset,
				append(f.isRefused(&expr.Cmp{Op: expr.CmpOpEq, Register: f.Register(1), Data: []byte{unix.IPPROTO_TCP}}),
					&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}),
			)
			k.addRule(c, check, unreachable, append(f.isRefused(),
				&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}))
			k.addRule(c, check, mark, f.mark())
			k.addRule(c, own, markOwn, append(f.isFromPod(), f.markOwn()...))
			k.addRule(c, output, markOwn, f.markOwn())
		}
		k.addRule(c, marked, taken, isTaken)
		k.addRule(c, postrouting, masquerade, masquerades)
		return k.QueueAdd(c, elements)
	})
}

func (k kernel) addChains(c *nftables.Conn) {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) {
		accept := nftables.ChainPolicyAccept
		chain := k.Chain(name)
		chain.Type, chain.Hooknum, chain.Priority, chain.Policy = kind, hook, priority, &accept
		c.AddChain(chain)
	}
	for _, chain := range looking {
		c.AddChain(k.Chain(chain))
	}
	k.addRule(c, check, reply, isReply)
	base(prerouting, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, beforeDNAT)
	base(output, nftables.ChainTypeFilter, nftables.ChainHookOutput, beforeDNAT)
	base(input, nftables.ChainTypeFilter, nftables.ChainHookInput, afterIPVS)
	k.addRule(c, input, reply, isReply)
	base(own, nftables.ChainTypeFilter, nftables.ChainHookInput, beforeIPVS)
	base(marked, nftables.ChainTypeFilter, nftables.ChainHookOutput, first)
	base(postrouting, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, from := range []string{prerouting, output} {
		k.addRule(c, from, jump, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: check}})
	}
}

func (k kernel) addRule(c *nftables.Conn, chain, comment string, exprs []expr.Any) {
	c.AddRule(
		&nftables.Rule{Table: k.Chain(chain).Table, Chain: k.Chain(chain), UserData: nft.Comment(comment), Exprs: exprs},
	)
}

// isReply ends the check of what answers a connection from the address: of a process of this node
// that has it as source. What belongs to no connection is checked.
var isReply = []expr.Any{
	&expr.Ct{Key: expr.CtKeyDIRECTION, Register: unix.NFT_REG32_00},
	&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG32_00, Data: []byte{1}}, // IP_CT_DIR_REPLY
	&expr.Verdict{Kind: expr.VerdictReturn},
}

// unexposed drops what is for a guarded address and no frontend.
func (f family) unexposed() []expr.Any {
	return append(f.loadDestination(), f.in(guarded, true), f.LoadPort(), f.in(frontends, false), &expr.Counter{}, drop)
}

// addForbiddenSource drops what is for a restricted frontend, and not from one of its sources.
func (k kernel) addForbiddenSource(c *nftables.Conn, f family) {
	rules := f.looks()
	for i, lengths := range rules {
		do := []expr.Any{&expr.Counter{}, drop}
		if next := i + 1; next < len(rules) {
			do = []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: looking[next]}}
		}
		k.addRule(c, looking[i], forbiddenSource, append(f.outside(lengths), do...))
	}
}

// looks returns the lengths of prefixes that each rule looks up. Every one is looked up twice: if a
// prefix is replaced by one of another length between two lookups, its source may miss first the
// new one, and then the old one.
func (f family) looks() [][]int {
	const perRule = 22 // the kernel has 4 KiB for the expressions of a rule
	return slices.Collect(slices.Chunk(slices.Concat(f.lengths(), f.lengths()), perRule))
}

// outside matches what is for a restricted frontend, and from none of its prefixes of these
// lengths.
func (f family) outside(lengths []int) []expr.Any {
	prefix := f.Register(3)
	source := prefix + f.Length/4
	exprs := append(f.loadDestination(), f.LoadPort(), f.in(restricted, true),
		f.LoadSource(source))
	for _, bits := range lengths {
		exprs = append(
			exprs,
			&expr.Bitwise{
				SourceRegister: source,
				DestRegister:   prefix,
				Len:            f.Length,
				Mask:           net.CIDRMask(bits, f.bits()),
				Xor:            make([]byte, f.Length),
			},
			&expr.Lookup{SourceRegister: f.Register(0), SetName: f.sources(bits), Invert: true},
		)
	}
	return exprs
}

// unknown resets connections to guarded addresses that IPVS does not know: those of an endpoint
// that is gone, with which IPVS has conntrack forget them, and of before a reboot. The node's own
// TCP sends no reset from an IPv4 address that it does not have.
func (f family) unknown() []expr.Any {
	const flags, all, syn = 13, 0x17, 0x02 // FIN, SYN, RST and ACK of the TCP header
	return slices.Concat(f.loadDestination(), []expr.Any{f.in(guarded, true),
		&expr.Cmp{Op: expr.CmpOpEq, Register: f.Register(1), Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		&expr.Bitwise{
			SourceRegister: unix.NFT_REG32_00,
			DestRegister:   unix.NFT_REG32_00,
			Len:            1,
			Mask:           []byte{all},
			Xor:            []byte{0},
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG32_00, Data: []byte{syn}},
	}, isNew, []expr.Any{&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
}

// away drops all else that IPVS did not take: somebody emptied it, and it will be back before the
// client tries again. The node's own sockets are not to have it.
func (f family) away() []expr.Any {
	return append(f.loadDestination(), f.in(guarded, true), &expr.Counter{}, drop)
}

// isNew goes on with the first packets of connections.
var isNew = []expr.Any{
	&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG32_00},
	&expr.Bitwise{
		SourceRegister: unix.NFT_REG32_00,
		DestRegister:   unix.NFT_REG32_00,
		Len:            4,
		Mask:           native(expr.CtStateBitNEW),
		Xor:            native(0),
	},
	&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG32_00, Data: native(0)},
}

// isRefused goes on with new connections to a frontend whose endpoints take none, if the packet is
// as said besides.
func (f family) isRefused(besides ...expr.Any) []expr.Any {
	return slices.Concat(
		f.loadDestination(),
		[]expr.Any{f.LoadPort(), f.in(refused, true)},
		besides,
		isNew,
		[]expr.Any{&expr.Counter{}},
	)
}

// masqueradeBit of a packet's mark says that it is to be masqueraded: kube-proxy's bit for just
// that, so that no other is taken. (A lookup by what the connection was made to, `ct original
// daddr`, has Debian's nft 1.0.6 abort when it lists it.)
const masqueradeBit = 0x4000

// mark marks what is sent to a masqueraded frontend.
func (f family) mark() []expr.Any {
	return append(
		append(f.loadDestination(), f.LoadPort(), f.in(masqueraded, true)),
		setMark(^uint32(masqueradeBit), masqueradeBit)...)
}

// isFromPod goes on with what a pod of this node sent.
func (f family) isFromPod() []expr.Any {
	return append(
		f.Is(),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00},
		f.LoadSource(unix.NFT_REG32_00+1),
		f.in(pods, true),
	)
}

// markOwn has IPVS find the virtual server of pods and processes of this node, if there is one.
func (f family) markOwn() []expr.Any {
	return append(
		f.loadDestination(),
		f.LoadPort(),
		&expr.Lookup{
			SourceRegister: f.Register(0),
			SetName:        marks + f.Suffix,
			DestRegister:   unix.NFT_REG32_00,
			IsDestRegSet:   true,
		},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG32_00, SourceRegister: true},
	)
}

// isTaken has what IPVS sends on for a mark masqueraded, and no one else see that mark.
var isTaken = append([]expr.Any{
	&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG32_00},
	&expr.Bitwise{
		SourceRegister: unix.NFT_REG32_00,
		DestRegister:   unix.NFT_REG32_00,
		Len:            4,
		Mask:           native(ipvs.MarksMask),
		Xor:            native(0),
	},
	&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG32_00, Data: native(ipvs.Marks)},
}, setMark(0, masqueradeBit)...)

// masquerades has the node's address as source of what is marked, and takes the mark off. Ports are
// fully random, since two CPUs that both look for the next free port may find the same and lose a
// packet.
var masquerades = append(append([]expr.Any{
	&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG32_00},
	&expr.Bitwise{
		SourceRegister: unix.NFT_REG32_00,
		DestRegister:   unix.NFT_REG32_00,
		Len:            4,
		Mask:           native(masqueradeBit),
		Xor:            native(0),
	},
	&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG32_00, Data: native(0)},
}, setMark(^uint32(masqueradeBit), 0)...), &expr.Masq{FullyRandom: true})

// setMark keeps some bits of a packet's mark and sets others.
func setMark(kept, set uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG32_00},
		&expr.Bitwise{
			SourceRegister: unix.NFT_REG32_00,
			DestRegister:   unix.NFT_REG32_00,
			Len:            4,
			Mask:           native(kept),
			Xor:            native(set),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG32_00, SourceRegister: true},
	}
}

func native(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

var drop = &expr.Verdict{Kind: expr.VerdictDrop}

// loadDestination goes on with packets of the family, and loads their destination and protocol.
func (f family) loadDestination() []expr.Any {
	return append(f.Is(), f.LoadDestination(f.Register(0)), f.LoadProtocol())
}

// in matches what is, or is not, in a set; its key begins in the first register.
func (f family) in(set string, is bool) expr.Any {
	return &expr.Lookup{SourceRegister: f.Register(0), SetName: set + f.Suffix, Invert: !is}
}

func (k kernel) Change(add, remove []nft.Element) error { return k.ChangeElements(add, remove) }

func (k kernel) Check(elements []nft.Element) error {
	if err := k.checkRules(); err != nil {
		return err
	}
	var sets []*nftables.Set
	for _, f := range nft.Families {
		sets = append(sets, k.sets(family{f})...)
	}
	return k.CheckElements(sets, elements)
}

func (k kernel) checkRules() error {
	rules, err := k.Rules()
	if err != nil {
		return err
	}
	want := map[string][]string{
		prerouting: {jump}, output: {jump}, check: {reply}, input: {reply}, marked: {taken}, postrouting: {masquerade},
	}
	for range nft.Families {
		want[check] = append(want[check], unexposed, forbiddenSource, reset, unreachable, mark)
		for _, chain := range looking[1:] {
			want[chain] = append(want[chain], forbiddenSource)
		}
		want[input] = append(want[input], unknown, away)
		want[own], want[output] = append(want[own], markOwn), append(want[output], markOwn)
	}
	have := map[string][]string{}
	for _, r := range rules {
		have[r.Chain] = append(have[r.Chain], r.Comment)
	}
	if !maps.EqualFunc(have, want, slices.Equal[[]string]) {
		return fmt.Errorf("table inet %s has rules %q, want %q", k.Name, have, want)
	}
	return nil
}

// dropped counts packets, by reason.
func (k kernel) dropped() (map[string]uint64, error) {
	rules, err := k.Rules()
	if err != nil {
		return nil, err
	}
	found := map[string]uint64{}
	for _, r := range rules {
		if r.Comment == unexposed || r.Comment == forbiddenSource {
			found[r.Comment] += r.Packets
		}
	}
	return found, nil
}
