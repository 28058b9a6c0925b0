package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// mirrorStep copies the version that readers now get. It comes before the rollout: what is
// restarted may read the copy.
type mirrorStep struct{ engine *Engine }

const stepMirror = "mirror"

func (*mirrorStep) name() string { return stepMirror }

func (*mirrorStep) applies(s *subject, _ *rotation.Rotation) bool { return s.role.Policy.Mirror != "" }

// meant tells whether the journal says that this copy is about to be written over.
func (r stepRun) meant(version int, id string) bool {
	m := r.state.Mirror
	return m != nil && m.Path == r.role.Policy.Mirror && m.Instead == version && slices.Contains(m.Meant, id)
}

func (st *mirrorStep) run(ctx context.Context, r stepRun) (stepProgress, error) {
	progress, err := st.copy(ctx, r)
	err = outOfTime(ctx, err)
	if answerless(err) || fault.Is(err, fault.Conflict) {
		return r.again("", err) // was it written?
	}
	return progress, err
}

// copy looks what lies there, journals that it is about to be written over, and writes. Each
// time it looks first: the answer to an earlier write may have been lost.
func (st *mirrorStep) copy(ctx context.Context, r stepRun) (stepProgress, error) {
	id := r.rotation.ID
	fields, err := fieldsPrint(r.role.Policy)
	if err != nil {
		return stepProgress{}, err
	}
	a, err := st.engine.lookAtMirror(ctx, r.subject, &r.version, id)
	now := st.engine.clock.Now()
	here := r.role.Policy.Mirror
	at := func(change func(*subject)) func(*subject) error {
		return func(s *subject) error {
			if s.role.Policy.Mirror != here {
				return errStale
			}
			change(s)
			return nil
		}
	}
	record := func(copied int) func(*subject) error {
		return at(func(s *subject) { s.mirrored(copied, r.version.Number, fields, id, now) })
	}
	switch {
	case err != nil:
		return stepProgress{}, err
	case a.written:
		return stepProgress{done: true, detail: writtenAs(a.found.Version), change: record(a.found.Version)}, nil
	case a.foreign != "" && !r.role.Policy.MirrorForce:
		return stepProgress{change: at(func(s *subject) { s.mirrorForeign(a, now) })}, notOverwritten(a.foreign)
	case !r.meant(a.found.Version, id):
		return stepProgress{detail: "about to be written", change: at(func(s *subject) {
			if a.foreign != "" {
				s.mirrorForeign(a, now)
			}
			s.meaning(a, id)
		})}, nil
	}
	copied, err := a.place.through.Write(ctx, a.place.conn, a.place.path, a.want, a.found.Version)
	if err != nil {
		return stepProgress{}, scrubbed(err, a.want)
	}
	return stepProgress{done: true, detail: writtenAs(copied), change: record(copied)}, nil
}

func writtenAs(version int) string { return fmt.Sprintf("written as version %d", version) }

// scrubbed is an error without what was sent.
func scrubbed(err error, sent secret.Map) error {
	return fault.New(fault.KindOf(err), "%s", failureOf(err, sent).Message)
}

// ruleMirror keeps the copy as the role wants it to be also outside a rotation: when the
// role begins to have one, or wants it elsewhere or otherwise.
func ruleMirror(v view) decision {
	cur, m := v.state.CurrentVersion(), v.state.Mirror
	if v.state.InFlight != nil || v.state.Deleted || cur == nil || cur.Compromised || v.frozen() || v.role.Policy.Mirror == "" && m == nil {
		return decision{}
	}
	if m == nil || m.Path != v.role.Policy.Mirror {
		return v.due(actMirror)
	}
	leave := m.Foreign != "" && !v.role.Policy.MirrorForce
	if leave || m.Foreign == "" && m.Version == cur.Number && m.Fields == v.mirrorPrint {
		return decision{}
	}
	if m.Attention != nil {
		return decision{act: actMirror, at: later(v.now, m.Attention.At)}
	}
	return v.due(actMirror)
}

// mirror writes the copy outside a rotation, as the step does within one: first it is
// journalled, then written.
func (e *Engine) mirror(ctx context.Context, s *subject) error {
	if s.role.Policy.Mirror == "" { // what was written stays
		_, err := e.update(ctx, s.name, func(s *subject) error {
			if s.role.Policy.Mirror != "" || s.state.InFlight != nil {
				return errStale
			}
			s.state.Mirror = nil
			return nil
		})
		return err
	}
	cur := s.state.CurrentVersion()
	run := stepRun{subject: s, rotation: &rotation.Rotation{ID: cur.RotationID}, version: *cur}
	st := &mirrorStep{e}
	var progress stepProgress
	failed := e.effect(ctx, func(ctx context.Context) (err error) {
		progress, err = st.copy(ctx, run)
		return err
	})
	if errors.Is(failed, errInterrupted) || isStorage(failed) {
		return failed
	}
	here := s.role.Policy.Mirror
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if now := s.state.CurrentVersion(); now == nil || now.Number != cur.Number || s.state.InFlight != nil || s.state.Deleted || s.role.Policy.Mirror != here {
			return errStale
		}
		if progress.change != nil {
			if err := progress.change(s); err != nil {
				return err
			}
		}
		if failed != nil {
			m := s.mirrorHere()
			m.Attention = attention(m.Attention, e.clock.Now(), failureOf(failed, nil).Message, 0, true)
		}
		return nil
	})
	return err
}

// ruleCopy compares the copy with what we wrote, as often as the target is compared.
func ruleCopy(v view) decision {
	m := v.state.Mirror
	if v.role.Policy.Mirror == "" || m == nil || m.Path != v.role.Policy.Mirror || v.state.InFlight != nil || v.state.Deleted || v.frozen() {
		return decision{}
	}
	return decision{act: actCopy, at: v.looks[lookAtCopy].dueAt()}
}

// lookAtCopy notices what somebody else did to a role's copy.
func (e *Engine) lookAtCopy(ctx context.Context, s *subject) error {
	a, err := e.readCopy(ctx, s)
	if err == nil && a.foreign != s.state.Mirror.Foreign {
		err = e.noteForeign(ctx, s, a)
	}
	return e.afterLook(s, lookAtCopy, err)
}

func (e *Engine) readCopy(ctx context.Context, s *subject) (a mirrorAct, err error) {
	m := s.state.Mirror
	err = e.effect(ctx, func(ctx context.Context) (err error) {
		if a.place, err = e.place(ctx, s.role); err != nil {
			return err
		}
		a.found, err = a.place.through.Read(ctx, a.place.conn, a.place.path)
		return err
	})
	if err != nil {
		return a, fmt.Errorf("look at the copy %s: %w", m.Path, err)
	}
	a.foreign = foreign(m, m.Path, a.found)
	return a, nil
}

func (e *Engine) noteForeign(ctx context.Context, s *subject, a mirrorAct) error {
	m := s.state.Mirror
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Mirror == nil || s.state.Mirror.Path != m.Path || s.state.Mirror.Copy != m.Copy {
			return errStale
		}
		if a.foreign == "" {
			s.state.Mirror.Foreign, s.state.Mirror.ForeignCopy, s.state.Mirror.Attention = "", 0, nil
			return nil
		}
		s.mirrorForeign(a, e.clock.Now())
		return nil
	})
	return err
}
