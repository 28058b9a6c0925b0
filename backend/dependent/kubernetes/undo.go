package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

const (
	// earlier is the annotation of the object itself, beside the template, with what the last
	// order put its own annotations in the place of.
	earlier = manager + "/before"
	// undoings is the annotation of the object with the ids of the last undoings, newest first.
	undoings = manager + "/undone"
)

// template is what an order changes of a pod template; nil for an annotation that is not
// there.
type template struct {
	Order       string  `json:"order"`
	RestartedAt *string `json:"restarted_at"`
	Orders      *string `json:"orders"`
}

// before is what the template has now, kept for an order that is about to change it.
func (o *object) before(order string) (string, error) {
	has := o.Spec.Template.Metadata.Annotations
	raw, err := json.Marshal(template{Order: order, RestartedAt: annotation(has, restartedAt), Orders: annotation(has, orders)})
	if err != nil {
		return "", fmt.Errorf("keep what a pod template has: %w", err)
	}
	return string(raw), nil
}

func annotation(all map[string]string, name string) *string {
	if value, ok := all[name]; ok {
		return &value
	}
	return nil
}

// kept reads what an order kept of the template, nil where it was never given.
func (o *object) kept(order string) *template {
	t := &template{}
	if json.Unmarshal([]byte(o.Metadata.Annotations[earlier]), t) != nil || t.Order != order {
		return nil
	}
	return t
}

// Undo implements dependent.Restarter. A template that is again what it was is the same to its
// controller, which lets the pods of that time stay, or makes them anew.
func (k *ConnectionKind) Undo(ctx context.Context, conn rotator.Connection, w dependent.Workload, o dependent.Order, undone string) error {
	c, err := own(conn)
	if err != nil {
		return err
	}
	if !orderID.MatchString(o.ID) || !orderID.MatchString(undone) || o.Time.IsZero() {
		return fault.New(fault.Internal, "undo the restart of %s: an order has an id and a time", w)
	}
	return c.settle(ctx, w, func(is *object) (unsettled, err error) {
		last := strings.Fields(is.Spec.Template.Metadata.Annotations[orders])
		switch kept := is.kept(undone); {
		case slices.Contains(strings.Fields(is.Metadata.Annotations[undoings]), o.ID), is.ordered(o):
			return nil, nil
		case kept == nil && !slices.Contains(last, undone) && !o.Everywhere:
			return nil, nil // it never came through
		case kept == nil || len(last) == 0 || last[0] != undone:
			// It never came through, or somebody wrote the template since: what it was is not what
			// it should be.
			return c.restart(ctx, is, o)
		default:
			return c.restore(ctx, is, o, kept)
		}
	})
}

// restore gives the template back what it had.
func (c *Connection) restore(ctx context.Context, o *object, order dependent.Order, kept *template) (unsettled, err error) {
	if err := o.restartable(); err != nil {
		return nil, err
	}
	known := strings.Fields(o.Metadata.Annotations[undoings])
	ids := append([]string{order.ID}, known[:min(len(known), maxOrders-1)]...)
	return c.change(ctx, o, "undo the restart of",
		map[string]any{undoings: strings.Join(ids, " "), earlier: nil},
		map[string]any{restartedAt: kept.RestartedAt, orders: kept.Orders},
		func(now *object) bool {
			return slices.Contains(strings.Fields(now.Metadata.Annotations[undoings]), order.ID)
		})
}
