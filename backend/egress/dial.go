package egress

import (
	"context"
	"errors"
	"net"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// Dial opens a TCP connection to host:port within the policy, for protocols other than
// HTTP. Faults: Target for an address that the policy refuses, else Unreachable.
func Dial(ctx context.Context, address string) (net.Conn, error) {
	return dial(ctx, address, newDialer(nil))
}

func dial(ctx context.Context, address string, by dialFunc) (net.Conn, error) {
	conn, err := by(ctx, "tcp", address)
	if err == nil {
		return conn, nil
	}
	var refused *refusal
	if errors.As(err, &refused) {
		return nil, fault.New(fault.Target, "%s: %w", address, refused)
	}
	return nil, fault.New(fault.Unreachable, "no connection: %w", err)
}
