package egress

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for why, addresses := range map[string][]string{
		"": {
			"127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12:3456::1", "fc00::1", "8.8.8.8",
			"2606:4700::1111", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::8.8.8.8", "2002:a00:1::1", "192.0.0.193",
			"100.100.100.201", "fd00:ec3::254", "64:ff9b:1::10.0.0.1", "64:ff9b:1::8.8.8.8", "2001:4860:4860::8888",
		},
		"it is unspecified":         {"0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"},
		"it is a multicast address": {"224.0.0.1", "239.255.255.250", "ff02::1", "::ffff:224.0.0.1"},
		"it is the broadcast address": {
			"255.255.255.255", "::ffff:255.255.255.255",
		},
		"it is link-local": {"169.254.0.1", "169.254.170.2", "fe80::1", "fe80::1%eth0", "febf::1", "::ffff:169.254.170.2"},
		"it is a metadata service's": {
			"169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
			"fd00:42::42", "100.100.100.200", "192.0.0.192", "168.63.129.16", "::ffff:100.100.100.200",
		},
		"it stands for 169.254.169.254, and it is a metadata service's": {
			"64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "2002:a9fe:a9fe::1", "::169.254.169.254",
			"::ffff:0:169.254.169.254", "2001:0:808:808::5601:5601",
			"64:ff9b:1::169.254.169.254", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1::a9:fea9:fe00:0",
		},
		"it stands for 192.0.0.192, and it is a metadata service's":     {"64:ff9b::192.0.0.192", "2002:c000:c0::1"},
		"it stands for 100.100.100.200, and it is a metadata service's": {"64:ff9b::100.100.100.200", "2002:6464:64c8::1"},
		"it stands for 169.254.1.1, and it is link-local":               {"64:ff9b::169.254.1.1", "2002:a9fe:101::1"},
		"it stands for 224.0.0.1, and it is a multicast address":        {"64:ff9b::224.0.0.1", "2002:e000:1::1"},
		"it stands for 0.0.0.0, and it is unspecified":                  {"64:ff9b::", "2002::1"},
		"it stands for 255.255.255.255, and it is the broadcast address": {
			"64:ff9b::255.255.255.255", "2002:ffff:ffff::",
		},
	} {
		for _, address := range addresses {
			require.Equal(t, why, refuses(netip.MustParseAddr(address)), address)
		}
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	require.NoError(t, control("tcp4", "127.0.0.1:443", nil))
	require.EqualError(t, control("tcp6", "[fe80::1%eth0]:443", nil), "the egress policy refuses the address fe80::1%eth0: it is link-local")
	require.EqualError(t, control("unix", "/run/x.sock", nil), "the egress policy refuses the address /run/x.sock: it is not an IP address")
}

// What is dialled is refused, whatever the URL and the list of hosts say.
func TestRefusedAddressInAURL(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"169.254.169.254", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]", "0.0.0.0", "[fe80::1]", "224.0.0.1"} {
		for _, r := range []Request{list("http://" + address + "/latest/meta-data"), create("https://" + address + "/")} {
			u, err := url.Parse(r.URL)
			require.NoError(t, err)
			c := client(t, func(o *Options) { o.AllowedHosts = []string{u.Hostname()} })
			_, err = c.Do(t.Context(), r)
			require.ErrorContains(t, err, "the egress policy refuses the address ")
			require.ErrorContains(t, err, netip.MustParseAddr(u.Hostname()).Unmap().String())
			require.ErrorContains(t, err, r.Action+": "+address+": ")
			require.Equal(t, fault.Target, fault.KindOf(err))
		}
	}
}

func TestRefusedAddressBehindAName(t *testing.T) {
	t.Parallel()
	c := newClient(Options{AllowedHosts: []string{"api.example.com"}}, newDialer(zone(t, "169.254.169.254")))
	defer c.Close()
	_, err := c.Do(t.Context(), create("https://api.example.com/v1?key=canary"))
	require.EqualError(t, err, "create a key: api.example.com: the egress policy refuses the address 169.254.169.254: it is a metadata service's")
	require.Equal(t, fault.Target, fault.KindOf(err))
}

// The name changes nothing either way: one that leads to loopback is admitted.
func TestAdmittedAddressBehindAName(t *testing.T) {
	t.Parallel()
	h := newHost(t, answer(200, "here"))
	u, err := url.Parse(h.URL)
	require.NoError(t, err)
	c := newClient(Options{AllowedHosts: []string{"api.example.com"}, AllowInsecureHTTP: true}, newDialer(zone(t, "127.0.0.1")))
	defer c.Close()
	resp, err := c.Do(t.Context(), list("http://api.example.com:"+u.Port()))
	require.NoError(t, err)
	require.Equal(t, "here", string(resp.Body))
}

func TestNoProxyFromTheEnvironment(t *testing.T) {
	proxy := newHost(t, answer(200, "the proxy"))
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	// A host that net/http would ask a proxy for, unlike one on loopback.
	c := newClient(Options{AllowedHosts: []string{"api.example.com"}, AllowInsecureHTTP: true}, newDialer(zone(t, "169.254.1.1")))
	defer c.Close()
	_, err := c.Do(t.Context(), list("http://api.example.com/"))
	require.ErrorContains(t, err, "refuses the address 169.254.1.1")
	require.Nil(t, c.network.shared.Proxy)
	require.Nil(t, c.network.single.Proxy)
	require.Zero(t, proxy.served.Load())
}

func TestNoRedirect(t *testing.T) {
	t.Parallel()
	elsewhere := newHost(t, answer(200, "elsewhere"))
	h := newHost(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	for _, r := range []Request{list(h.URL), create(h.URL)} {
		resp, err := client(t, nil).Do(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, http.StatusTemporaryRedirect, resp.Status)
		require.Equal(t, elsewhere.URL, resp.Header.Get("Location"))
	}
	require.Zero(t, elsewhere.served.Load())
}

// zone is a resolver for which every name has one IPv4 address.
func zone(t *testing.T, address string) *net.Resolver {
	t.Helper()
	ip := netip.MustParseAddr(address).As4()
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			for answerDNS(theirs, ip) == nil {
			}
		}()
		return ours, nil
	}}
}

// answerDNS reads one question in the form of DNS over TCP, and answers it (RFC 1035, 4).
func answerDNS(conn net.Conn, ip [4]byte) error {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, query); err != nil {
		return err
	}
	const header = 12
	end := header
	for query[end] != 0 { // the labels of the name
		end += 1 + int(query[end])
	}
	end += 5 // the last label, type and class
	isA := query[end-3] == 1
	reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[header:end]...)
	if isA {
		reply[7] = 1
		reply = append(reply, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
		reply = append(reply, ip[:]...)
	}
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
	return err
}
