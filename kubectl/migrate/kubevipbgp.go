package migrate

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// kubeVIPRoutes makes the neighbors of kube-vip's BGP, and the announcement to them.
func (c *converter) kubeVIPRoutes(i item, env map[string]string, all announcement) {
	local, err := strconv.ParseInt(env["bgp_as"], 10, 64)
	if err != nil {
		local = 65000 // kube-vip's default
		c.note(i.from, "env bgp_as", env["bgp_as"], "it is not written, so kube-vip has 65000")
	}
	var names []string
	for n, text := range kubeVIPPeers(env) {
		// The text is not reported: there may be a password in it.
		field := fmt.Sprintf("env bgp_peers[%d]", n)
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		spec, password, err := kubeVIPPeer(text)
		if err != nil {
			c.lacks(i.from, field, "", err.Error()+"; write a BGPNeighbor")
			continue
		}
		spec.LocalASN, spec.NodeSelector = local, all.nodes
		if spec.EBGPMultihop != 0 && internal(spec) {
			spec.EBGPMultihop = 0
		}
		c.setTimes(i.from, &spec, "env bgp_hold_time", inSeconds(env["bgp_hold_time"]),
			"env bgp_keepalive_interval", inSeconds(env["bgp_keepalive_interval"]))
		if ip := env["bgp_sourceip"]; ip != "" {
			c.note(i.from, "env bgp_sourceip", ip,
				"one address fits one node only; take sourceAddress out where it is not an anycast address")
			spec.SourceAddress = ip
		}
		o := &v1alpha1.BGPNeighbor{Spec: spec}
		o.Name = c.nameFor("BGPNeighbor", i, strings.ReplaceAll(spec.Address+spec.Interface, ":", "-"))
		if password != "" {
			o.Spec.Authentication = tcpMD5(c.newSecret(i, field, o.Name+"-bgp", password))
		}
		c.add(i.from, "BGPNeighbor", o)
		names = append(names, o.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(bgpRemedies)) {
		if env[name] != "" {
			c.lacks(i.from, "env "+name, env[name], bgpRemedies[name])
		}
	}
	if len(names) == 0 {
		c.lacks(
			i.from,
			"env bgp_peers",
			"",
			"there is no neighbor that can be converted, so nothing is announced by BGP",
		)
		return
	}
	c.addRoute(i, i.name, all, v1alpha1.RouteAnnouncementSpec{NeighborNames: names})
}

// bgpRemedies are settings without a counterpart.
var bgpRemedies = map[string]string{
	"bgp_routerid": "in Berth each node has a router ID of its own; " +
		"write spec.bgp.routerID of the Speakers, by node, if they need one",
	"bgp_routerinterface": "Berth's router ID is the node's IPv4 address; " +
		"write spec.bgp.routerID of the Speakers, by node, for another one",
	"bgp_sourceif": "the kernel chooses by its routes; " +
		"write sourceAddress of the BGPNeighbors, by node, if it is another one",
	"mpbgp_nexthop": "Berth chooses next hops by nextHop of the BGPNeighbor",
}

// kubeVIPPeers returns the peers as bgp_peers has them; the one that has variables of its own is
// the last.
func kubeVIPPeers(env map[string]string) []string {
	peers := strings.Split(env["bgp_peers"], ",")
	if address := env["bgp_peeraddress"]; address != "" {
		if strings.Contains(address, ":") {
			address = "[" + address + "]"
		}
		peers = append(peers, strings.Join([]string{
			address, env["bgp_peeras"], env["bgp_peerpass"], env["bgp_multihop"],
		}, ":"))
	}
	return peers
}

// inSeconds writes a number of seconds as a time.
func inSeconds(text string) string {
	if text == "" || text == "0" {
		return ""
	}
	return text + "s"
}

// kubeVIPPeer parses ADDRESS:ASN:PASSWORD:MULTIHOP:PORT:MPBGP:BFD, of which all but the first two
// may be missing. An IPv6 address is in brackets, and unnumbered:INTERFACE is in place of one. The
// error has nothing of the text, since that may have a password.
func kubeVIPPeer(text string) (spec v1alpha1.BGPNeighborSpec, password string, err error) {
	rest, unnumbered := strings.CutPrefix(text, "unnumbered:")
	if strings.HasPrefix(rest, "[") {
		address, after, closed := strings.Cut(rest[1:], "]")
		if !closed {
			return spec, "", errors.New("the address has no closing bracket")
		}
		spec.Address, rest = address, after
	}
	parts := append(strings.Split(rest, ":"), make([]string, 7)...)
	switch {
	case unnumbered:
		spec.Interface = parts[0]
	case spec.Address == "":
		spec.Address = parts[0]
	}
	if _, err := netip.ParseAddr(spec.Address); err != nil && !unnumbered {
		return spec, "", errors.New("it does not begin with an address")
	}
	switch asn, err := strconv.ParseInt(parts[1], 10, 64); {
	case err == nil:
		spec.RemoteASN = asn
	case unnumbered:
		spec.RemoteType = v1alpha1.RemoteExternal
	default:
		return spec, "", errors.New("the AS number is not a number")
	}
	if isTrue(parts[3]) && !unnumbered {
		spec.EBGPMultihop = 255
	}
	if port, err := strconv.ParseInt(parts[4], 10, 32); err == nil {
		spec.Port = int32(port)
	}
	if bfd := append(strings.Split(parts[6], ";"), "", "", ""); isTrue(bfd[0]) {
		receive, _ := strconv.ParseInt(bfd[1], 10, 64)
		transmit, _ := strconv.ParseInt(bfd[2], 10, 64)
		multiplier, _ := strconv.ParseInt(bfd[3], 10, 32)
		spec.BFD = &v1alpha1.BFD{
			ReceiveInterval: milliseconds(
				receive,
			), TransmitInterval: milliseconds(transmit), Multiplier: int32(multiplier),
		}
	}
	return spec, parts[2], nil
}

func isTrue(text string) bool {
	is, err := strconv.ParseBool(text)
	return err == nil && is
}
