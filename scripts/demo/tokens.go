package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// tokens shows a role whose secret is a signing key: rotations break no token, and a leaked key is
// of no use from the moment it is declared leaked.
func tokens(ctx context.Context, say *narrator, s *stage, _ *application) error {
	say.heading("A third kind: signing keys, and no token breaks")
	say.text(`A version of this role is a key that signs JSON Web Tokens. Vault signs; who verifies needs the
public keys alone. The times are short here, so that there is something to see.
`)
	for _, args := range [][]string{
		{"policy", "write", issuerName, issuerName + ".hcl"},
		{
			"write", "rotation/roles/session", "type=jwt", "algorithm=ES256", "allowed_claims=sub,aud",
			"rotation_period=7d", "token_ttl=30s", "clock_skew=1s", "announce_period=3s",
		},
		{"write", "rotation/sign/session", `claims={"sub": "user-1", "aud": "crm"}`},
	} {
		if _, err := say.vault(ctx, args...); err != nil {
			return err
		}
	}
	say.text(`Anyone may fetch the public keys, without a token. The second one is the key of the next version: it
is announced before it signs, so that verifiers that cache know it in time.
`)
	if err := say.fetch(ctx, "rotation/jwks/session"); err != nil {
		return err
	}
	traffic, stop, err := s.startTraffic(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := s.rotateKey(ctx, say, traffic); err != nil {
		return err
	}
	stop()
	return s.leakKey(ctx, say, traffic)
}

// rotateKey shows a rotation that waits for the announcement, and that no verifier notices.
func (s *stage) rotateKey(ctx context.Context, say *narrator, t *traffic) error {
	say.text(`An issuer now signs a token every 100 ms, and a verifier checks each of them again and again until it
expires: with another library, and by the keys it has cached. A rotation right now would come too
early for it:
`)
	if err := say.refused(ctx, "write", "-f", "rotation/rotate/session"); err != nil {
		return err
	}
	if err := s.everyCacheIsNew(ctx, t); err != nil {
		return err
	}
	say.text("A few seconds later every cache has the key of version 2:\n")
	if _, err := say.vault(ctx, "write", "-f", "rotation/rotate/session"); err != nil {
		return err
	}
	// By then version 3 is announced too, and tokens of version 1 are still checked.
	if err := s.everyCacheIsNew(ctx, t); err != nil {
		return err
	}
	seen, err := t.seen()
	if err != nil {
		return err
	}
	say.text("The verifier: %s.\n", seen)
	if seen.old == 0 || seen.tokens[2] == 0 {
		return errors.New("no token of version 1 was checked after version 2 took over")
	}
	return nil
}

// everyCacheIsNew waits for longer than a key is announced before it signs.
func (s *stage) everyCacheIsNew(ctx context.Context, t *traffic) error {
	before, err := t.seen()
	if err != nil {
		return err
	}
	return s.poll(ctx, "the verifier to fetch the keys four times", func() (bool, error) {
		seen, err := t.seen()
		return seen.fetches >= before.fetches+4, err
	})
}

// leakKey shows what an emergency does to a key: its tokens are refused from then on.
func (s *stage) leakKey(ctx context.Context, say *narrator, t *traffic) error {
	token := t.newest()
	if err := os.WriteFile(filepath.Join(s.dir, "token.txt"), []byte(token), 0o600); err != nil {
		return err
	}
	say.text("Then somebody finds the key where it should not be. A token of it, a moment before:\n")
	if err := s.verified(ctx, say, true); err != nil {
		return err
	}
	if _, err := say.vault(ctx, "write", "rotation/emergency/session", "reason=the key was in a backup"); err != nil {
		return err
	}
	say.text("And a moment after. The key is out of the set, for good:\n")
	if err := s.verified(ctx, say, false); err != nil {
		return err
	}
	if _, err := say.vault(ctx, "read", "-field=revoked_kids", "rotation/status/session"); err != nil {
		return err
	}
	fresh := &verifier{address: s.vault.Address()}
	if err := fresh.check(ctx, token); err == nil {
		return errors.New("a verifier accepts a token of the leaked key")
	}
	say.text(`Verifiers on their own refuse it as soon as they fetch the keys again, as next_steps says: here within a
second, and never later than an hour.`)
	return nil
}

// verified asks the mount about the token in token.txt.
func (s *stage) verified(ctx context.Context, say *narrator, good bool) error {
	output, err := say.vault(ctx, "write", "rotation/verify/session", "token=@token.txt", "audience=crm")
	if err != nil {
		return err
	}
	if active := strings.Contains(output, "true"); active != good {
		return fmt.Errorf("verify says active=%t of a token, and should say %t", active, good)
	}
	return nil
}
