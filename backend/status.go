package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
)

// summaries keep, in memory, what status shows of every role.
type summaries struct {
	mu     sync.Mutex
	by     map[string]summary
	ending map[string]endingRole // deleted roles whose versions are not all ended
	epoch  int
	full   bool
}

// endingRole is a deleted role, and what a person has to do for it.
type endingRole struct {
	typ, connection, waits string
	coming                 *coming
}

// summary is a role's state at its last change; the word for it depends on the time.
type summary struct {
	RoleSummary
	connection   string
	fixed        RoleState // a state that no time changes, "" for none
	reason       string
	failing      bool
	rotating     bool
	grace        bool
	overdueAfter time.Duration
	// accessThreshold is the role's own, or mountsThreshold.
	accessThreshold int
	// facts and coming are what metrics and the calendar know: of roles that are kept alone.
	facts  facts
	coming *coming
}

// set notes a role's change.
func (m *summaries) set(s *subject) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.place(s)
}

// found notes a role that a rebuild came across, unless it changed meanwhile.
func (m *summaries) found(s *subject) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.by[s.name]; !known {
		m.place(s)
	}
}

func (m *summaries) place(s *subject) {
	if m.by == nil {
		m.by, m.ending = map[string]summary{}, map[string]endingRole{}
	}
	if s.state.Deleted {
		delete(m.by, s.name)
		_, waits := s.personActs()
		m.ending[s.name] = endingRole{s.role.Type, s.role.Connection, waits, s.coming()}
		return
	}
	delete(m.ending, s.name)
	sum := s.summary()
	sum.facts, sum.coming = s.facts(), s.coming()
	m.by[s.name] = sum
}

func (m *summaries) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.by, name)
	delete(m.ending, name)
}

func (m *summaries) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.by)
}

func (m *summaries) ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.full
}

// reset asks for a rebuild.
func (m *summaries) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++
	m.full, m.by, m.ending = false, nil, nil
}

func (m *summaries) begin() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch
}

func (m *summaries) complete(epoch int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = m.full || m.epoch == epoch
}

func (m *summaries) beingEnded() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.Sorted(maps.Keys(m.ending))
	for i, name := range names {
		if waits := m.ending[name].waits; waits != "" {
			names[i] += " (" + waits + ")"
		}
	}
	return names
}

func (m *summaries) countEnding() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.ending)
}

// connection is that of a role, as far as it is known.
func (m *summaries) connection(name string) (connection string, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.by[name]; ok {
		return s.connection, true
	}
	ending, known := m.ending[name]
	return ending.connection, known
}

// mayBe tells whether a role, or what is left of a deleted one, may be of a type.
func (m *summaries) mayBe(name, typ string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, known := m.by[name]; known {
		return s.Type == typ
	}
	if ending, known := m.ending[name]; known {
		return ending.typ == typ
	}
	return !m.full // else it is gone
}

// upcoming is what comes up for each role, deleted ones that are being ended included.
func (m *summaries) upcoming() map[string]*coming {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]*coming, len(m.by)+len(m.ending))
	for name, s := range m.by {
		out[name] = s.coming
	}
	for name, s := range m.ending {
		out[name] = s.coming
	}
	return out
}

func (m *summaries) all() []summary {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]summary, 0, len(m.by))
	for _, s := range m.by {
		out = append(out, s)
	}
	return out
}

// summary derives what status shows from a role's documents.
func (s *subject) summary() summary {
	st := s.state
	newest, _ := lastError(st)
	out := summary{
		RoleSummary: RoleSummary{
			Name: s.name, Type: s.role.Type, CurrentVersion: st.Current, ActivatedTime: st.ActivatedTime,
			NextRotation: st.NextRotation, LastError: newest,
		},
		connection: s.role.Connection,
		rotating:   st.InFlight != nil || st.Intent != nil && st.Intent.Attempt == 1, overdueAfter: s.role.Policy.OverdueAfter.Std(),
		accessThreshold: ownThreshold(s.role.Policy),
	}
	held := ""
	if st.InFlight != nil {
		held = st.InFlight.Held
	}
	switch {
	case st.Divergence != nil:
		out.fixed, out.reason = StateDiverged, st.Divergence.Reason
	case st.Blocked != "":
		out.fixed, out.reason = StateBlocked, st.Blocked
	case st.ActionRequired != "":
		out.fixed, out.reason = StateActionRequired, st.ActionRequired
	case held != "":
		out.fixed, out.reason = StateActionRequired, held
	case s.unfollowed() != "":
		out.fixed, out.reason = StateActionRequired, s.unfollowed()
	default:
		out.fixed, out.reason = s.personActs()
	}
	out.failing = st.Failures > 0 || st.Reencryption.Runs() && st.Reencryption.Failures > 0 || st.Postponed != nil && st.Postponed.Failing || st.Ahead != nil || st.Mirror.Trouble() != ""
	for i := range st.Versions {
		v := &st.Versions[i]
		out.grace = out.grace || v.Holds() && st.Reencryption.Runs() || !v.KeepsData && (v.State == rotation.Retiring || v.State == rotation.Disabled)
		out.failing = out.failing || v.Attention != nil && v.Attention.Failing || v.Doubted()
	}
	return out
}

// unfollowed says that dependents were left between two versions, "" where they were not, or
// a rotation is about to take them along.
func (s *subject) unfollowed() string {
	u := s.state.Unfollowed
	if u == nil || s.state.InFlight != nil || s.state.Intent != nil {
		return ""
	}
	return fmt.Sprintf("what depends on %s had not followed rotation %s when it was ended, and the one after it failed: some of it may hold version %d, some version %d: write rotate/%s, or rollback/%s again",
		s.name, u.ID, u.Version, u.PreviousVersion, s.name, s.name)
}

// personActs tells what a person has to do to promote a version, or at the target to end
// one.
func (s *subject) personActs() (RoleState, string) {
	if staged := s.promotable(); staged != "" {
		return StateActionRequired, staged
	}
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; v.Attention != nil && v.Attention.Person {
			return StateActionRequired, fmt.Sprintf("version %d (%s): %s", v.Number, v.Identifier, v.Attention.Reason)
		}
	}
	if job := s.state.Reencryption; job != nil && job.Person {
		return StateActionRequired, fmt.Sprintf("%s: once that is mended, write reencrypt/%s/run", job.Trouble, s.name)
	}
	return "", ""
}

// promotable says that a staged version waits for a person, "" where none does.
func (s *subject) promotable() string {
	staged := s.state.StagedVersion()
	if staged == nil || !s.promotes {
		return ""
	}
	return fmt.Sprintf("version %d (%s) is proven and waits for a person: write promote/%s", staged.Number, staged.Identifier, s.name)
}

// lastError is the newest trouble a person should read, and its cause without what the role
// has of its own in it: a target that dies hits many roles, each with another version.
func lastError(st *rotation.State) (text, cause string) {
	same := func(text string) (string, string) { return text, text }
	if st.Postponed != nil && st.Postponed.Failing {
		return same("preflight: " + st.Postponed.Reason)
	}
	if st.InFlight != nil && st.InFlight.Error != nil {
		return same(st.InFlight.Error.Message)
	}
	for i := range st.Versions {
		if v := &st.Versions[i]; v.Attention != nil && v.Attention.Failing {
			return fmt.Sprintf("version %d: %s", v.Number, v.Attention.Reason), v.Attention.Reason
		}
	}
	if i := slices.IndexFunc(st.Versions, func(v rotation.Version) bool { return v.Doubted() }); i >= 0 {
		v := &st.Versions[i]
		return fmt.Sprintf("the end of version %d: %s", v.Number, v.Proof.Result), v.Proof.Result
	}
	if st.Ahead != nil {
		return same("the next version cannot be made ahead: " + st.Ahead.Reason)
	}
	if job := st.Reencryption; job.Runs() && job.Failures > 0 {
		return same("re-encryption: " + job.Trouble)
	}
	if trouble := st.Mirror.Trouble(); trouble != "" {
		return trouble, strings.Replace(trouble, " at "+st.Mirror.Path, "", 1)
	}
	if st.Last != nil && st.Last.Error != nil && st.Failures > 0 {
		return same(st.Last.Error.Message)
	}
	return "", ""
}

// at gives the state in a word at a time: of all that hold, the most urgent.
func (s summary) at(now time.Time, mountOverdue time.Duration) summary {
	s.Overdue = schedule.Overdue(s.NextRotation, now)
	limit := overdueAfter(s.overdueAfter, mountOverdue)
	switch {
	case s.fixed != "":
		s.State = s.fixed
	case s.Overdue > limit:
		s.State = StateOverdue
	case s.failing:
		s.State = StateFailing
	case s.rotating:
		s.State = StateRotating
	case s.Overdue > 0:
		s.State = StateDue
	case s.grace:
		s.State = StateGrace
	default:
		s.State = StateOK
	}
	return s
}

// Status lists every role at a glance, the most urgent first.
func (e *Engine) Status(ctx context.Context, q StatusQuery) (*StatusPage, error) {
	if !e.summaries.ready() {
		if err := e.rebuild(ctx); err != nil {
			return nil, err
		}
	}
	now, page := e.clock.Now(), &StatusPage{Counts: map[RoleState]int{}, Warnings: e.mountWarnings()}
	var roles []summary
	var last *summary // of the page before
	for _, s := range e.summaries.all() {
		s = s.at(now, e.config.Load().OverdueAfter.Std())
		page.Counts[s.State]++
		if q.State == "" || q.State == s.State {
			roles = append(roles, s)
		}
		if s.Name == q.After {
			last = &s
		}
	}
	if q.After != "" {
		if last == nil {
			return nil, fault.Field("after", "names no role any more: begin again without it")
		}
		roles = slices.DeleteFunc(roles, func(s summary) bool { return byUrgency(s, *last) <= 0 })
	}
	slices.SortFunc(roles, byUrgency)
	for _, s := range roles {
		if q.Limit > 0 && len(page.Roles) == q.Limit {
			page.Next = page.Roles[len(page.Roles)-1].Name
			break
		}
		page.Roles = append(page.Roles, s.RoleSummary)
	}
	return page, nil
}

func (e *Engine) mountWarnings() (out []string) {
	if e.config.Load().Paused {
		out = append(out, "this mount is paused: nothing acts until config has paused=false")
	}
	if names := e.outbox.failing(); len(names) > 0 {
		out = append(out, "channels that do not take messages: "+joinFirst(names, 20))
	}
	if names := e.summaries.beingEnded(); len(names) > 0 {
		out = append(out, "deleted roles whose last versions are being ended: "+joinFirst(names, 20))
	}
	return out
}

// byUrgency orders by state, then by lateness, then by name.
func byUrgency(a, b summary) int {
	return cmp.Or(cmp.Compare(urgency(a.State), urgency(b.State)), -cmp.Compare(a.Overdue, b.Overdue), strings.Compare(a.Name, b.Name))
}

func urgency(s RoleState) int { return slices.Index(RoleStates, s) }

// inUseTimeout bounds the question who still uses a version.
const inUseTimeout = 5 * time.Second

// RoleStatus shows one role in full. Who still uses a retiring version is asked at
// the target; when that does not answer, the rest is shown all the same.
func (e *Engine) RoleStatus(ctx context.Context, name string) (*RoleStatus, error) {
	s, err := e.loadLive(ctx, name)
	if err != nil {
		return nil, err
	}
	sum := s.summary().at(e.clock.Now(), e.config.Load().OverdueAfter.Std())
	out := &RoleStatus{
		RoleSummary: sum.RoleSummary, Connection: s.role.Connection, StateReason: sum.reason,
		ConsecutiveFailures: s.state.Failures, Rotation: s.state.InFlight, LastRotation: s.state.Last,
		Versions: s.state.Versions, InUse: map[int][]rotator.Use{}, Mirror: s.state.Mirror,
	}
	if _, ok := e.rotators[s.role.Type].(rotator.LiveUser); ok {
		out.RevokedIDs = s.revoked()
	}
	for _, link := range s.state.Incidents {
		if !s.contained(link.ID) || !s.replaced(link.ID) {
			out.OpenIncidents = append(out.OpenIncidents, link.ID)
		}
		if steps := s.nextSteps(link.ID); len(steps) > 0 && out.StateReason == "" {
			out.StateReason = steps[0]
		}
	}
	if out.StateReason == "" {
		out.StateReason = sum.LastError
	}
	if out.StateReason == "" {
		out.StateReason = s.reason(sum.State)
	}
	if err := e.inUse(ctx, s, out); err != nil {
		e.logger.Warn("could not ask who uses the retiring versions", "role", name, "error", failureOf(err, nil).Message)
	}
	return out, nil
}

// revoked lists the identifiers of versions that leaked, the oldest first.
func (s *subject) revoked() []string {
	ids := []string{}
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; v.Compromised {
			ids = append(ids, v.Identifier)
		}
	}
	return ids
}

// reason says in words what a state that needs nobody is about.
func (s *subject) reason(state RoleState) string {
	switch state {
	case StateOverdue, StateDue:
		if p := s.state.Postponed; p != nil && !p.Failing {
			return p.Reason
		}
		return "due since " + s.state.NextRotation.Format(time.RFC3339)
	case StateRotating:
		if r := s.state.InFlight; r != nil {
			return fmt.Sprintf("rotation %s (%s) is in phase %s", r.ID, r.Trigger, r.Phase) + runningStep(r)
		}
		if i := s.state.Intent; i != nil && s.announces(i) {
			v := s.state.Version(i.Version)
			if v.State == rotation.Standby {
				return fmt.Sprintf("version %d is announced, and is rolled back to at %s", v.Number, v.ReadyAt.Format(time.RFC3339))
			}
		}
		return "a rotation is about to begin"
	case StateGrace:
		return s.ending()
	default:
		return ""
	}
}

// runningStep says how far a rotation's dependents got, "" where none is at work.
func runningStep(r *rotation.Rotation) string {
	for i := range r.Steps {
		if step := &r.Steps[i]; step.State == rotation.StepRunning && step.Back == r.Reverting {
			back := ""
			if step.Back {
				back = ", on its way back"
			}
			return fmt.Sprintf(", step %s%s: %s", step.Name, back, step.Detail)
		}
	}
	return ""
}

// ending says what the versions wait for that are to end.
func (s *subject) ending() string {
	if job := s.state.Reencryption; job.Runs() && len(s.state.Holding()) > 0 {
		return fmt.Sprintf("versions %s decrypt until their data has followed: %s", rotation.Numbers(s.state.Holding()), s.following())
	}
	out := "an old version is being ended"
	for _, v := range slices.Backward(s.state.Versions) {
		switch waits := v.Attention != nil && !v.Attention.Failing; {
		case waits && (v.State == rotation.Retiring || v.State == rotation.Disabled):
			return fmt.Sprintf("version %d: %s", v.Number, v.Attention.Reason)
		case v.State == rotation.Retiring && !v.RetireAt.IsZero():
			out = fmt.Sprintf("version %d lives until %s", v.Number, v.RetireAt.Format(time.RFC3339))
		}
	}
	return out
}

func (e *Engine) inUse(ctx context.Context, s *subject, out *RoleStatus) error {
	asker, ok := e.rotators[s.role.Type].(rotator.InUser)
	if !ok {
		return nil
	}
	ctx, done := context.WithTimeout(ctx, inUseTimeout)
	defer done()
	var failed error
	for i := range s.state.Versions {
		v := &s.state.Versions[i]
		if v.State != rotation.Retiring && v.State != rotation.Disabled {
			continue
		}
		users, err := e.usersOfVersion(ctx, s, asker, v)
		if err == nil {
			out.InUse[v.Number] = users
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func (e *Engine) usersOfVersion(ctx context.Context, s *subject, asker rotator.InUser, v *rotation.Version) ([]rotator.Use, error) {
	t, err := e.target(ctx, s, *v)
	if err != nil {
		return nil, err
	}
	return asker.InUse(ctx, t)
}

// History returns up to limit rotations that ended, newest first.
func (e *Engine) History(ctx context.Context, name, before string, limit int) ([]rotation.Rotation, string, error) {
	if _, err := e.loadLive(ctx, name); err != nil {
		return nil, "", err
	}
	if limit <= 0 {
		return nil, "", fault.Field("limit", "must be 1 or more")
	}
	return e.store.History(ctx, name, before, limit)
}
