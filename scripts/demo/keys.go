package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// keys shows API keys: one that calls make and end, and one that people make and end by hand.
func keys(ctx context.Context, say *narrator, s *stage, _ *application) error {
	say.heading("A fourth kind: API keys")
	say.text(`No real account is used here: %s is a stand-in, which answers as OpenAI's
documentation says. That is why base_url and allow_insecure_http are given; OpenAI itself needs neither.
The admin key makes the keys and ends them; no application ever sees it.
`, s.openai.URL())
	err := say.vaultEach(
		ctx,
		[]string{
			"write", "rotation/connections/openai", "type=openai", "project=" + s.openai.Project(),
			"admin_key=@openai-admin-key.txt", "base_url=" + s.openai.BaseURL(), "allow_insecure_http=true",
		},
		[]string{"write", "rotation/roles/llm", "type=api-key", "connection=openai", "rotation_period=90d", "grace_period=20s"},
		[]string{"read", "rotation/creds/llm"},
		[]string{"policy", "write", callerName, callerName + ".hcl"},
	)
	if err != nil {
		return err
	}
	app, stop, err := s.startCaller(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := s.untilCalls(ctx, app, "the application to call the API", func(c calls) bool { return c.accepted[1] >= 10 }); err != nil {
		return err
	}
	for _, part := range []func(context.Context, *narrator, *caller) error{
		s.rotateAPIKey, s.stageByHand, s.endAPIKey, s.endByHand, s.leakAPIKey,
	} {
		if err := part(ctx, say, app); err != nil {
			return err
		}
	}
	return nil
}

// rotateAPIKey shows two keys that both work.
func (s *stage) rotateAPIKey(ctx context.Context, say *narrator, _ *caller) error {
	say.text("%q now calls the API with its primary_key, every 50 ms. A rotation makes a second key:\n", callerName)
	if err := say.vaultEach(ctx, []string{"write", "-f", "rotation/rotate/llm"}, []string{"read", "rotation/creds/llm"}); err != nil {
		return err
	}
	pair, err := readPair(ctx, s.vault.Client())
	if err != nil {
		return err
	}
	say.text("Until the old one's grace is over, both are live:\n")
	if err := say.call(ctx, s.openai.BaseURL()+"/models", "PRIMARY_KEY", pair.primary, http.StatusOK); err != nil {
		return err
	}
	return say.call(ctx, s.openai.BaseURL()+"/models", "SECONDARY_KEY", pair.secondary, http.StatusOK)
}

// stageByHand shows a key that a person makes, since its provider has no call for that.
func (s *stage) stageByHand(ctx context.Context, say *narrator, _ *caller) error {
	say.text(`Meanwhile Stripe, where keys are made by hand alone (again a stand-in that answers as the documentation
says). The role begins with the key in use today. The next one is handed in, proven by a call, and takes
over:
`)
	return say.vaultEach(
		ctx,
		[]string{"write", "rotation/connections/stripe", "type=stripe", "base_url=" + s.stripe.URL(), "allow_insecure_http=true"},
		[]string{"write", "rotation/roles/payments", "type=api-key", "connection=stripe", "key=@stripe-key-1.txt", "rotation_period=90d", "grace_period=20s"},
		[]string{"write", "rotation/stage/payments", "key=@stripe-key-2.txt"},
	)
}

// endAPIKey shows what becomes of a key that a call ends.
func (s *stage) endAPIKey(ctx context.Context, say *narrator, app *caller) error {
	if err := s.untilDead(ctx, "llm", 1); err != nil {
		return err
	}
	say.text("After its grace the old key was ended by a call, and is proven dead:\n")
	if _, err := say.vault(ctx, "read", "-format=json", "-field=versions", "rotation/status/llm"); err != nil {
		return err
	}
	seen, err := app.counts()
	if err != nil {
		return err
	}
	say.text("The application: %s.\n", seen)
	if seen.allRefused() > 0 || seen.current != 2 {
		return errors.New("the application was refused calls by a planned rotation, or did not change over")
	}
	return nil
}

// endByHand shows what becomes of a key that no call ends.
func (s *stage) endByHand(ctx context.Context, say *narrator, _ *caller) error {
	waits := func() (bool, error) {
		answer, err := s.vault.Client().Logical().ReadWithContext(ctx, "rotation/status/payments")
		return err == nil && answer.Data["state"] == "action_required", err
	}
	if err := s.poll(ctx, "the role payments to ask for a person", waits); err != nil {
		return err
	}
	say.text("The old key of Stripe is for a person to end, and the role asks for one:\n")
	if err := say.vaultEach(
		ctx,
		[]string{"read", "-field=state", "rotation/status/payments"},
		[]string{"read", "-field=state_reason", "rotation/status/payments"},
	); err != nil {
		return err
	}
	old, err := os.ReadFile(filepath.Join(s.dir, "stripe-key-1.txt"))
	if err != nil {
		return err
	}
	s.stripe.ExpireByHand(string(old))
	say.text("Somebody expires it. That is not taken on trust, but proven as well:\n")
	if _, err := say.vault(ctx, "write", "-f", "rotation/retire/payments"); err != nil {
		return err
	}
	return s.untilDead(ctx, "payments", 1)
}

// leakAPIKey shows that a leaked key is of no use from the moment it is declared leaked.
func (s *stage) leakAPIKey(ctx context.Context, say *narrator, app *caller) error {
	leaked, err := readPair(ctx, s.vault.Client())
	if err != nil {
		return err
	}
	say.text("Then somebody finds the key that is in use in a repository:\n")
	if _, err := say.vault(ctx, "write", "rotation/emergency/llm", "reason=pushed to a repository"); err != nil {
		return err
	}
	if err := say.call(ctx, s.openai.BaseURL()+"/models", "LEAKED_KEY", leaked.primary, http.StatusUnauthorized); err != nil {
		return err
	}
	if err := s.untilDead(ctx, "llm", leaked.version); err != nil {
		return err
	}
	if err := s.untilCalls(ctx, app, "the application to call with version 3", func(c calls) bool { return c.accepted[3] >= 10 }); err != nil {
		return err
	}
	seen, err := app.counts()
	if err != nil {
		return err
	}
	say.text(`The application: %s.
What was refused was the leaked key, in the emergency; the rotation cost nothing.`, seen)
	if seen.refused[leaked.version] != seen.allRefused() {
		return errors.New("the application was refused with another key than the leaked one")
	}
	return nil
}

// untilDead waits for a version to be ended, and proven dead.
func (s *stage) untilDead(ctx context.Context, role string, number int) error {
	return s.poll(ctx, fmt.Sprintf("version %d of %s to be retired and proven dead", number, role), func() (bool, error) {
		version, err := s.version(ctx, role, number)
		return version["state"] == "retired" && version["proven_dead"] == true, err
	})
}
