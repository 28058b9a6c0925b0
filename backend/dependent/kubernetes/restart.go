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
	return c.settle(ctx, w, func(is *object) (unsettled, err error) {
		if is.ordered(o) {
			return nil, nil
		}
		return c.restart(ctx, is, o)
	})
}

// settle reads a workload and lets it be changed as it was read, until it is known what became
// of the change. unsettled says why it has to be read again.
func (c *Connection) settle(ctx context.Context, w dependent.Workload, change func(*object) (unsettled, err error)) error {
	var unsettled error
	for range maxTries {
		is, err := c.same(ctx, w)
		if err != nil {
			return err
		}
		if unsettled, err = change(is); unsettled == nil {
			return err
		}
	}
	return unsettled
}

// ordered tells whether an order changed the template already.
func (o *object) ordered(order dependent.Order) bool {
	return slices.Contains(strings.Fields(o.Spec.Template.Metadata.Annotations[orders]), order.ID)
}

// restart changes the template of an object as it was read, and keeps beside it what it was.
func (c *Connection) restart(ctx context.Context, o *object, order dependent.Order) (unsettled, err error) {
	if err := o.restartable(); err != nil {
		return nil, err
	}
	kept, err := o.before(order.ID)
	if err != nil {
		return nil, err
	}
	last := strings.Fields(o.Spec.Template.Metadata.Annotations[orders])
	ids := append([]string{order.ID}, last[:min(len(last), maxOrders-1)]...)
	return c.change(ctx, o, "restart",
		map[string]any{earlier: kept},
		map[string]any{restartedAt: order.Time.UTC().Format(time.RFC3339), orders: strings.Join(ids, " ")},
		func(now *object) bool { return now.ordered(order) })
}

// change writes annotations of an object as it was read, and of its pod template. unsettled
// says why it has to be read again: it was changed meanwhile, or what became of the request is
// not known.
func (c *Connection) change(ctx context.Context, o *object, act string, of, ofTemplate map[string]any, lasts func(now *object) bool) (unsettled, err error) {
	m := o.Metadata
	a, err := c.do(ctx, call{
		action: fmt.Sprintf("%s %s", act, o), method: http.MethodPatch, path: path(m.Namespace, o.kind, m.Name),
		query: url.Values{"fieldManager": {manager}}, patches: true,
		right: right{verb: "patch", namespace: m.Namespace, kind: o.kind, name: m.Name},
		body: map[string]any{
			"metadata": map[string]any{"resourceVersion": m.ResourceVersion, "annotations": of}, // no two objects have the same
			"spec":     map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": ofTemplate}}},
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
		return nil, fault.New(fault.Target, "%s %s: it is gone", act, o)
	}
	now, err := a.object(m.Namespace, o.kind, m.Name)
	switch {
	case fault.Is(err, fault.Unreachable):
		return err, nil
	case err != nil:
		return nil, err
	case !lasts(now):
		return nil, fault.New(fault.Target, "%s %s: the change did not last: something in the cluster, such as an admission webhook, takes the annotations of %s off", act, o, manager)
	}
	return nil, nil
}
