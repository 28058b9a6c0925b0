package egress

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func TestDial(t *testing.T) {
	t.Parallel()
	h := newHost(t, answer(200, ""))
	conn, err := Dial(t.Context(), h.name(t))
	require.NoError(t, err)
	require.Equal(t, h.name(t), conn.RemoteAddr().String())
	require.NoError(t, conn.Close())

	h.Close()
	_, err = Dial(t.Context(), h.name(t))
	require.EqualError(t, err, "no connection: dial tcp "+h.name(t)+": connect: connection refused")
	require.Equal(t, fault.Unreachable, fault.KindOf(err))
}

func TestDialIsUnderThePolicy(t *testing.T) {
	t.Parallel()
	_, err := Dial(t.Context(), "169.254.169.254:25")
	require.EqualError(t, err, "169.254.169.254:25: the egress policy refuses the address 169.254.169.254: it is a metadata service's")
	require.Equal(t, fault.Target, fault.KindOf(err))

	_, err = dial(t.Context(), "mail.example.com:25", newDialer(zone(t, "169.254.1.1")))
	require.EqualError(t, err, "mail.example.com:25: the egress policy refuses the address 169.254.1.1: it is link-local")
}

func TestDialIsBoundedByItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Dial(ctx, "127.0.0.1:25")
	require.Equal(t, fault.Unreachable, fault.KindOf(err))
	require.ErrorContains(t, err, "no connection: ")
}
