// Package steering says which node gets the packets of a client of a steered Service, from what the
// speakers of all nodes say. It does no I/O.
package steering

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/internal/steerquery"
)

// Choice is what a user says of a connection. Only the client is necessary where there is no
// choice.
type Choice struct {
	Client   string // address:port
	Address  string // of the Service
	Port     string // of the Service, by number or name
	Protocol string
}

// QueryOf returns the connection that is meant, or what is wrong with the choice.
func QueryOf(svc *corev1.Service, c Choice) (q steerquery.Query, err error) {
	client, err := netip.ParseAddrPort(c.Client)
	if err != nil {
		return q, fmt.Errorf(
			"--client %s: is not an address and a port; write it like 192.0.2.9:40000 or [2001:db8::9]:40000",
			c.Client,
		)
	}
	q.Client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	address, err := addressOf(svc, c.Address, q.Client.Addr())
	if err != nil {
		return q, err
	}
	port, err := portOf(svc, c)
	if err != nil {
		return q, err
	}
	q.Service = netip.AddrPortFrom(address, uint16(port.Port))
	q.Protocol = protocolOf(port)
	if err := q.Check(); err != nil {
		return q, fmt.Errorf("--%w", err)
	}
	return q, nil
}

func addressOf(svc *corev1.Service, asked string, client netip.Addr) (netip.Addr, error) {
	all := service.AddressesIn(svc)
	if asked != "" {
		a, err := netip.ParseAddr(asked)
		if err != nil || !slices.Contains(all, a.Unmap()) {
			return netip.Addr{}, fmt.Errorf("--address %s: is not an address of Service %s, which has %s",
				asked, svc.Name, texts(all))
		}
		return a.Unmap(), nil
	}
	family := "IPv4"
	if client.Is6() {
		family = "IPv6"
	}
	same := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return a.Is4() != client.Is4() })
	switch len(same) {
	case 0:
		return netip.Addr{}, fmt.Errorf("--client %s: Service %s has no %s address, it has %s",
			client, svc.Name, family, texts(all))
	case 1:
		return same[0], nil
	}
	return netip.Addr{}, fmt.Errorf("the %s addresses of Service %s are %s; name one with --address",
		family, svc.Name, texts(same))
}

func portOf(svc *corev1.Service, c Choice) (corev1.ServicePort, error) {
	var found []corev1.ServicePort
	for _, p := range svc.Spec.Ports {
		if (c.Port == "" || c.Port == p.Name || c.Port == strconv.Itoa(int(p.Port))) &&
			(c.Protocol == "" || strings.EqualFold(c.Protocol, protocolOf(p))) {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return corev1.ServicePort{}, fmt.Errorf("the ports of Service %s are %s; name one with --port, and --protocol",
			svc.Name, portTexts(found))
	}
	return corev1.ServicePort{}, fmt.Errorf("--port %q, --protocol %q: name no port of Service %s, which has %s",
		c.Port, c.Protocol, svc.Name, portTexts(svc.Spec.Ports))
}

func protocolOf(p corev1.ServicePort) string {
	if p.Protocol == "" {
		return string(corev1.ProtocolTCP)
	}
	return string(p.Protocol)
}

func portTexts(ports []corev1.ServicePort) string {
	var all []string
	for _, p := range ports {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %d/%s", p.Name, p.Port, protocolOf(p))))
	}
	return strings.Join(all, ", ")
}

func texts(addresses []netip.Addr) string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}
