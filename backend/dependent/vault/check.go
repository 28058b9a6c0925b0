package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
)

// Check implements rotator.ConnectionKind: who the token is, and for each path without a
// wildcard whether what roles do there is possible.
func (*ConnectionKind) Check(ctx context.Context, conn rotator.Connection) ([]rotator.Line, error) {
	c, err := own(conn)
	if err != nil {
		return nil, err
	}
	info, err := c.Token(ctx)
	switch {
	case fault.Is(err, fault.AuthFailed):
		return []rotator.Line{{Check: "token", Result: rotator.Fail, Detail: err.Error()}}, nil
	case err != nil:
		return []rotator.Line{{Check: "reach Vault", Result: rotator.Fail, Detail: err.Error()}}, nil
	}
	lines := tokenLines(info)
	if len(c.allowedPaths) == 0 {
		lines = append(lines, rotator.Line{Check: "allowed_paths", Result: rotator.Warn, Detail: "is empty: no role can use this connection"})
	}
	for _, path := range c.allowedPaths {
		lines = append(lines, c.pathLine(ctx, path))
	}
	return lines, nil
}

func tokenLines(info *vaultclient.TokenInfo) []rotator.Line {
	policies := slices.Sorted(slices.Values(info.Policies))
	lines := []rotator.Line{{
		Check: "token", Result: rotator.Pass,
		Detail: fmt.Sprintf("Vault accepts it, as %q; it %s", info.DisplayName, lifeOf(info)),
	}, {Check: "policies", Result: rotator.Pass, Detail: strings.Join(policies, ", ")}}
	if slices.Contains(info.Policies, "root") {
		lines[1] = rotator.Line{Check: "policies", Result: rotator.Warn, Detail: "root: the token may do anything; give the connection a policy of its own"}
	}
	if info.TTL > 0 && !info.Renewable {
		lines[0].Result = rotator.Warn
	}
	return lines
}

func lifeOf(info *vaultclient.TokenInfo) string {
	switch {
	case info.TTL == 0:
		return "does not expire"
	case info.Renewable:
		return fmt.Sprintf("expires in %s, and is renewed when it is used", info.TTL)
	}
	return fmt.Sprintf("expires in %s, and cannot be renewed", info.TTL)
}

// pathLine says what may be done at one of the allowed paths.
func (c *Connection) pathLine(ctx context.Context, path string) rotator.Line {
	line := rotator.Line{Check: path, Result: rotator.Fail}
	if strings.Contains(path, "*") {
		line.Result, line.Detail = rotator.Pass, "has a wildcard: what may be done there is seen when a role names a path"
		return line
	}
	m, err := c.Mount(ctx, path)
	if err != nil {
		line.Detail = err.Error()
		return line
	}
	what := "a secret of KV version 2, which the token may read and write"
	if m.Type == "transit" {
		what = "a key of transit, which the token may rotate, configure, and use to rewrap"
	}
	if err := c.ready(ctx, m.Type, path); err != nil {
		line.Detail = err.Error()
		return line
	}
	line.Result, line.Detail = rotator.Pass, what
	return line
}

func (c *Connection) ready(ctx context.Context, mountType, path string) error {
	if mountType == "transit" {
		key, err := c.TransitKey(ctx, path)
		if err != nil {
			return err
		}
		return key.Ready(ctx)
	}
	kv, err := c.KV(ctx, path)
	if err != nil {
		return err
	}
	return kv.Ready(ctx)
}
