package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// errCertificate marks a host that could not prove who it is: asking again helps nothing.
var errCertificate = errors.New("the host's certificate is not accepted")

// lost makes the fault of an attempt without a whole answer.
func (c *Client) lost(ctx context.Context, k *call, err error, maySent bool) error {
	var refused *refusal
	if errors.As(err, &refused) {
		return k.fault(fault.Target, "%w", refused)
	}
	kind, what := fault.Unreachable, "no answer"
	switch {
	case k.Once && maySent:
		kind, what = fault.Unconfirmed, "the answer was lost, and the request may have been served"
	case errors.Is(err, errTooLong):
		kind, what = fault.Target, "the answer was not read"
	}
	text, cause := c.cause(ctx, k, err)
	return &fault.Error{Kind: kind, Message: fmt.Sprintf("%s: %s: %s: %s", k.Action, k.host, what, text), Err: cause}
}

// cause gives what may be said of an error of the network, and the error itself if its
// text is clean. Those of net/http are not: they quote what the host sent, which may be
// the request.
func (c *Client) cause(ctx context.Context, k *call, err error) (string, error) {
	var (
		op      *net.OpError
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		timeout net.Error
	)
	if ended := ctx.Err(); ended != nil {
		return ended.Error(), ended
	}
	switch {
	case errors.Is(err, errTooLong):
		return fmt.Sprintf("it is longer than %d bytes", c.options.MaxBody), errTooLong
	case errors.As(err, &cert):
		return k.Text(cert.Error()), errCertificate
	case errors.As(err, &record):
		return "it does not speak TLS", nil
	case errors.As(err, &op):
		return k.Text(op.Error()), op
	case errors.As(err, &timeout) && timeout.Timeout():
		// Not its own error, which would look as if the caller's time were over.
		return fmt.Sprintf("it took longer than %s", c.options.Timeout), nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed", io.ErrUnexpectedEOF
	}
	return "the connection failed, or what came was not HTTP", nil
}
