package postgresql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// maxReplicas bounds replica_urls: each is asked in each act.
const maxReplicas = 16

// replicaWait bounds what one act waits for the replicas, all of which it asks at
// once: for those that lag to catch up, and for those that do not answer.
const replicaWait = 10 * time.Second

// replica is one server of replica_urls. Mostly that is a hot standby; after a
// failover it may be the primary itself, which is then asked twice and counts once.
type replica struct {
	db   *postgres.DB
	name string // host:port
}

// replicaConfigs are how to reach them: as the primary, at other addresses.
func (o *connectionOptions) replicaConfigs(primary *postgres.Config) ([]postgres.Config, error) {
	if len(o.ReplicaURLs) > maxReplicas {
		return nil, fault.Field(replicaField, "must be at most %d", maxReplicas)
	}
	var configs []postgres.Config
	seen := map[postgres.Host]bool{}
	for i, text := range o.ReplicaURLs {
		a, err := postgres.ParseAddress(text)
		if err != nil {
			return nil, fault.Field(replicaField, "entry %d %s", i+1, messageOf(err))
		}
		switch {
		case len(a.Hosts) > 1:
			return nil, fault.Field(replicaField, "entry %d must name one host: each standby is asked for itself, and is an entry of its own", i+1)
		case a.TargetSessionAttrs != "" && a.TargetSessionAttrs != "any":
			return nil, fault.Field(replicaField, "entry %d must not ask for target_session_attrs=%s, which a standby does not have", i+1, a.TargetSessionAttrs)
		case seen[a.Hosts[0]]:
			return nil, fault.Field(replicaField, "entry %d names the same server as another", i+1)
		}
		seen[a.Hosts[0]] = true
		c := *primary
		c.Address = a
		configs = append(configs, c)
	}
	return configs, nil
}

const replicaField = "replica_urls"

// messageOf is what an error says, without the field that it names.
func messageOf(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Message
	}
	return err.Error()
}

func openReplicas(configs []postgres.Config) (replicas []*replica, err error) {
	for _, c := range configs {
		db, err := postgres.Open(c)
		if err != nil {
			closeReplicas(replicas)
			return nil, err
		}
		h := c.Address.Hosts[0]
		replicas = append(replicas, &replica{db: db, name: net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port)))})
	}
	return replicas, nil
}

func closeReplicas(replicas []*replica) {
	var all sync.WaitGroup
	for _, r := range replicas {
		all.Go(r.db.Close)
	}
	all.Wait()
}

// onReplicas does something on all of them at once, and returns the answers in
// their order.
func onReplicas[T any](ctx context.Context, c *Connection, within time.Duration, do func(context.Context, *replica) T) []T {
	if len(c.replicas) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	answers := make([]T, len(c.replicas))
	var all sync.WaitGroup
	for i, r := range c.replicas {
		all.Go(func() { answers[i] = do(ctx, r) })
	}
	all.Wait()
	return answers
}

// pause waits a moment, and tells whether there is time left.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(sessionsPoll)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// failed says that a replica could not be used. It is an error of the target's
// surroundings, and never says that a version is refused.
func (r *replica) failed(step string, err error) error {
	kind := fault.KindOf(err)
	if kind == fault.AuthFailed {
		kind = fault.Target
	}
	hint := ""
	if kind == fault.Unreachable {
		hint = "; if that server is gone for good, take it out of replica_urls"
	}
	return &fault.Error{Kind: kind, Message: fmt.Sprintf("%s on the standby %s: %v%s", step, r.name, err, hint), Err: err}
}

// mayNotSignal tells what to grant. What serves on the primary, to become a member of
// the role for the moment, needs a server that can be written to.
func (r *replica) mayNotSignal() string {
	return fmt.Sprintf("the connection's user may not end sessions on the standby %s: GRANT pg_signal_backend TO %s, on the primary", r.name, quoted(r.db.Username()))
}

// replicaQuery is what a line of the check is about: whether it is a standby and
// replays, whether sessions may be ended there (also by a grant that the server's own
// createrole_self_grant gives with each user), and which cluster it is of.
const replicaQuery = `
SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
	rolsuper OR pg_has_role('pg_signal_backend', 'USAGE') OR coalesce(current_setting('createrole_self_grant', true) LIKE '%inherit%', false), ` + clusterColumn + `
FROM pg_roles WHERE rolname = current_user`

// clusterColumn is the cluster's own number, "" where it may not be known.
const clusterColumn = `CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE') THEN (SELECT system_identifier::text FROM pg_control_system()) ELSE '' END`

// replicaLines checks each replica.
func (c *Connection) replicaLines(ctx context.Context) []rotator.Line {
	if len(c.replicas) == 0 {
		return nil
	}
	var cluster string
	_ = c.DB.Read(ctx, func(ctx context.Context, s *postgres.Session) error { // it is an extra: the lines of the primary say what is wrong with it
		_, err := s.Row(ctx, "SELECT "+clusterColumn, nil, &cluster)
		return err
	})
	return onReplicas(ctx, c, replicaWait, func(ctx context.Context, r *replica) rotator.Line { return r.line(ctx, cluster) })
}

func (r *replica) line(ctx context.Context, cluster string) rotator.Line {
	var (
		isStandby, isPaused, maySignal bool
		own                            string
	)
	check := "replica " + r.name
	err := r.db.Ping(ctx)
	if err == nil {
		err = r.db.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
			_, err := s.Row(ctx, replicaQuery, nil, &isStandby, &isPaused, &maySignal, &own)
			return err
		})
	}
	switch {
	case err != nil:
		return failed(check, r.failed("log in", err))
	case cluster != "" && own != "" && own != cluster:
		return rotator.Line{Check: check, Result: rotator.Fail, Detail: "belongs to another cluster than connection_url: nothing can be proven there"}
	case !isStandby:
		return rotator.Line{Check: check, Result: rotator.Warn, Detail: "is not in recovery: it is the primary itself, or was promoted and goes its own way"}
	case !maySignal:
		return rotator.Line{Check: check, Result: rotator.Fail, Detail: r.mayNotSignal()}
	case isPaused:
		return rotator.Line{Check: check, Result: rotator.Warn, Detail: "replay is paused: versions are neither made nor ended there until it is resumed"}
	}
	return passed(check, "is a hot standby that accepts the connection's user, and sessions there may be ended")
}

// replicaWarnings are the lines of a preflight. A standby that is away keeps nothing
// from being rotated on the primary, so none of them stops it.
func (c *Connection) replicaWarnings(ctx context.Context) []rotator.Line {
	lines := c.replicaLines(ctx)
	for i := range lines {
		if lines[i].Result == rotator.Fail {
			lines[i].Result = rotator.Warn
		}
	}
	return lines
}

// awaitReplicas waits until the standbys accept a new version: readers of one that has
// not replayed it yet would be given a credential that is refused. A standby that does
// not answer refuses nobody and is not waited for. One that keeps refusing ends the
// rotation, unless there is nothing else that readers could be given.
func (c *Connection) awaitReplicas(ctx context.Context, t *rotator.Target, user string, password secret.String) error {
	refusals := errors.Join(onReplicas(ctx, c, replicaWait, func(ctx context.Context, r *replica) error { return r.accepts(ctx, user, password) })...)
	if refusals == nil || t.Current == nil || t.Current.Version.Compromised { // what ends a leak waits for no standby
		return nil
	}
	return &fault.Error{Kind: fault.Unreachable, Message: strings.ReplaceAll(refusals.Error(), "\n", "; "), Err: refusals}
}

// accepts returns the refusal that stands when the time is over.
func (r *replica) accepts(ctx context.Context, user string, password secret.String) (refusal error) {
	for {
		s, err := r.db.Login(ctx, user, password)
		switch {
		case err == nil:
			s.Close()
			return nil
		case refuses(err):
			refusal = fmt.Errorf("the standby %s does not accept %s within %s: %w", r.name, quoted(user), replicaWait, err)
		case refusal == nil:
			return nil
		}
		if !pause(ctx) {
			return refusal
		}
	}
}

// refuses tells a refusal from the absence of an answer. What has not been replayed is
// refused as an unknown user, or in an unknown database.
func refuses(err error) bool {
	switch postgres.Code(err) {
	case postgres.CodeInvalidPassword, postgres.CodeInvalidAuth, postgres.CodeNoSuchDatabase, postgres.CodeNoPrivilege:
		return true
	}
	return false
}

// loginAsReader logs in as a version over the path that readers use. Where that has
// several hosts, one that is tried before the primary may be a standby that has not
// heard of a new version yet; a client does not go on to the next host then.
func (c *Connection) loginAsReader(ctx context.Context, user string, password secret.String) (*postgres.Session, error) {
	s, err := c.DB.Login(ctx, user, password)
	if len(c.DB.Address().Hosts) == 1 {
		return s, err
	}
	waiting, cancel := context.WithTimeout(ctx, replicaWait)
	defer cancel()
	for fault.Is(err, fault.AuthFailed) && pause(waiting) {
		s, err = c.DB.Login(ctx, user, password)
	}
	return s, err
}
