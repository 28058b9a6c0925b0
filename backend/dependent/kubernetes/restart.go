package kubernetes

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

const (
	// manager is who changed a field, for those who look at the object.
	manager = "vault-plugin-secrets-rotation"
	// orders is the annotation of the pod template with the ids of our last orders, newest
	// first: another role may have restarted the same workload in between.
	orders    = manager + "/rotation"
	maxOrders = 8
	// restartedAt is the annotation by which kubectl restarts, too.
	restartedAt = "kubectl.kubernetes.io/restartedAt"
	// maxTries bounds how often an object is read that somebody else changes, or whose change
	// was not answered.
	maxTries = 5
)

// orderID is what may stand in the list of orders.
var orderID = regexp.MustCompile(`^[A-Za-z0-9._:/-]{1,256}$`)

// Restart implements dependent.Restarter. The order's id lies on the template itself, and the
// object changes only as it was read: one that was changed since, be it by a request of ours that
// was thought to be lost, is read again. So an order changes the template once.
func (*ConnectionKind) Restart(ctx context.Context, conn rotator.Connection, w dependent.Workload, o dependent.Order) error {
	c, err := own(conn)
	if err != nil {
		return err
	}
	if !orderID.MatchString(o.ID) || o.Time.IsZero() {
		return fault.New(fault.Internal, "restart %s: an order has an id and a time", w)
	}
	var unsettled error
	for range maxTries {
		is, err := c.same(ctx, w)
		if err != nil {
			return err
		}
		if is.ordered(o) {
			return nil
		}
		if err := is.restartable(); err != nil {
			return err
		}
		unsettled, err = c.restart(ctx, is, o)
		if unsettled == nil {
			return err
		}
	}
	return unsettled
}

// ordered tells whether an order changed the template already.
func (o *object) ordered(order dependent.Order) bool {
	return slices.Contains(strings.Fields(o.Spec.Template.Metadata.Annotations[orders]), order.ID)
}

// restart changes the template of an object as it was read. unsettled says why that has to be
// read again: it was changed meanwhile, or what became of the request is not known.
func (c *Connection) restart(ctx context.Context, o *object, order dependent.Order) (unsettled, err error) {
	before := strings.Fields(o.Spec.Template.Metadata.Annotations[orders])
	ids := append([]string{order.ID}, before[:min(len(before), maxOrders-1)]...)
	m := o.Metadata
	a, err := c.do(ctx, call{
		action: fmt.Sprintf("restart %s", o), method: http.MethodPatch, path: path(m.Namespace, o.kind, m.Name),
		query: url.Values{"fieldManager": {manager}}, patches: true,
		right: right{verb: "patch", namespace: m.Namespace, kind: o.kind, name: m.Name},
		body: map[string]any{
			"metadata": map[string]any{"resourceVersion": m.ResourceVersion}, // no two objects have the same
			"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]any{
				restartedAt: order.Time.UTC().Format(time.RFC3339),
				orders:      strings.Join(ids, " "),
			}}}},
		},
	})
	switch {
	case fault.Is(err, fault.Unconfirmed):
		return fault.New(fault.Unreachable, "%w", err), nil
	case err != nil:
		return nil, err
	case a.Status == http.StatusConflict && a.status != nil:
		return fault.New(fault.Unreachable, "%s: it was changed each time just after it was read (%s)", a.call.action, a.said()), nil
	case a.gone():
		return nil, fault.New(fault.Target, "restart %s: it is gone", o)
	}
	now, err := a.object(m.Namespace, o.kind, m.Name)
	switch {
	case fault.Is(err, fault.Unreachable):
		return err, nil
	case err != nil:
		return nil, err
	case !now.ordered(order):
		return nil, fault.New(fault.Target, "restart %s: the change did not last: something in the cluster, such as an admission webhook, takes the annotation %s off the pod template", o, orders)
	}
	return nil, nil
}
