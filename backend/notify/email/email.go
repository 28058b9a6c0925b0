// Package email tells people by mail, through an SMTP server that submits it.
package email

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
)

// Kind is the type email.
type Kind struct {
	// StepTimeout replaces the time-out of one step of a session in tests; 0 leaves it.
	StepTimeout time.Duration
}

// New returns the kind.
func New() *Kind { return &Kind{} }

var _ notify.Kind = (*Kind)(nil)

// Type implements notify.Kind.
func (*Kind) Type() string { return "email" }

// Help implements notify.Kind.
func (*Kind) Help() string { return "Sends mail through an SMTP server." }

// Options implements notify.Kind.
func (*Kind) Options() option.Set { return optionSet }

// Check implements notify.Kind.
func (*Kind) Check(c *notify.Channel) error {
	_, err := settingsOf(c)
	return err
}

// Send implements notify.Kind.
func (k *Kind) Send(ctx context.Context, c *notify.Channel, m *notify.Message) error {
	s, err := settingsOf(c)
	if err != nil {
		return err
	}
	s.step = k.StepTimeout
	if s.step == 0 {
		s.step = stepTimeout
	}
	return s.submit(ctx, s.compose(m))
}
