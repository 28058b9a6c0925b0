package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	keepAlive   = 30 * time.Second
)

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// newDialer dials within the policy. Control sees the address itself, after DNS and for
// each attempt, so that neither a name nor an answer of DNS that changes between a check
// and its use can lead elsewhere. Names are resolved as the system does, but in tests.
func newDialer(resolver *net.Resolver) dialFunc {
	return (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive, Control: control, Resolver: resolver}).DialContext
}

func control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &refusal{address: address, why: "it is not an IP address"}
	}
	if why := refuses(ap.Addr()); why != "" {
		return &refusal{address: ap.Addr().String(), why: why}
	}
	return nil
}

// refusal is the policy's no to an address.
type refusal struct{ address, why string }

func (r *refusal) Error() string {
	return fmt.Sprintf("the egress policy refuses the address %s: %s", r.address, r.why)
}

// refuses tells why an address must not be dialled, and "" when it may. Loopback and
// private networks are admitted, since Vault and what it speaks to often stand in one.
// What is refused are addresses that nobody can mean, and those at which a machine in a
// cloud learns its own credentials: who may write a connection must not gain these.
func refuses(a netip.Addr) string {
	if why := refusesPlainly(a.WithZone("").Unmap()); why != "" {
		return why
	}
	for _, inner := range wrapped(a) {
		if why := refusesPlainly(inner); why != "" {
			return fmt.Sprintf("it stands for %s, and %s", inner, why)
		}
	}
	return ""
}

func refusesPlainly(a netip.Addr) string {
	switch {
	case a.IsUnspecified() || thisNetwork.Contains(a):
		return "it is unspecified"
	case a.IsMulticast():
		return "it is a multicast address"
	case a == broadcast:
		return "it is the broadcast address"
	}
	for _, p := range metadata {
		if p.Contains(a) {
			return "it is a metadata service's"
		}
	}
	if a.IsLinkLocalUnicast() {
		return "it is link-local"
	}
	return ""
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	broadcast   = netip.MustParseAddr("255.255.255.255")
	metadata    = prefixes(
		"169.254.169.254/32",     // nearly every cloud; link-local as a whole is refused anyway
		"fd00:ec2::/32",          // AWS: instance metadata, credentials of pods, and what else it puts there
		"fd20:ce::254/128",       // Google Cloud
		"fd00:c1::a9fe:a9fe/128", // Oracle Cloud
		"fd00:42::42/128",        // Scaleway
		"100.100.100.200/32",     // Alibaba Cloud
		"192.0.0.192/32",         // Oracle Cloud, classic
		"168.63.129.16/32",       // Azure's wire server, which hands out certificates
	)
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// wrapping is a range of IPv6 whose addresses lead to an IPv4 address that is written in
// them.
type wrapping struct {
	prefix netip.Prefix
	at     [4]int // which of the 16 bytes it stands in
	// inverted says that each bit is flipped.
	inverted bool
	// guess says that it may stand elsewhere. Zeros are then taken for a gap.
	guess bool
}

var (
	last      = [4]int{12, 13, 14, 15}
	ownNAT64  = netip.MustParsePrefix("64:ff9b:1::/48")
	wrappings = []wrapping{
		{prefix: netip.MustParsePrefix("::/96"), at: last},                     // IPv4-compatible
		{prefix: netip.MustParsePrefix("::ffff:0:0:0/96"), at: last},           // IPv4-translated (SIIT)
		{prefix: netip.MustParsePrefix("64:ff9b::/96"), at: last},              // NAT64
		{prefix: netip.MustParsePrefix("2002::/16"), at: [4]int{2, 3, 4, 5}},   // 6to4
		{prefix: netip.MustParsePrefix("2001::/32"), at: last, inverted: true}, // Teredo
		// NAT64 of one's own, by the length of its prefix (RFC 6052, 2.2).
		{prefix: ownNAT64, at: [4]int{6, 7, 9, 10}, guess: true},
		{prefix: ownNAT64, at: [4]int{7, 9, 10, 11}, guess: true},
		{prefix: ownNAT64, at: [4]int{9, 10, 11, 12}, guess: true},
		{prefix: ownNAT64, at: last, guess: true},
	}
)

// wrapped gives the IPv4 addresses that an IPv6 address may stand for.
func wrapped(a netip.Addr) []netip.Addr {
	a = a.WithZone("")
	if !a.Is6() || a.Is4In6() || a.IsLoopback() {
		return nil
	}
	var list []netip.Addr
	for _, w := range wrappings {
		if !w.prefix.Contains(a) {
			continue
		}
		if inner := w.unwrap(a.As16()); !w.guess || !thisNetwork.Contains(inner) {
			list = append(list, inner)
		}
	}
	return list
}

func (w *wrapping) unwrap(outer [16]byte) netip.Addr {
	var inner [4]byte
	for i, at := range w.at {
		inner[i] = outer[at]
		if w.inverted {
			inner[i] ^= 0xff
		}
	}
	return netip.AddrFrom4(inner)
}
