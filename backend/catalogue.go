package backend

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// EventKind is a sort of event that people may be told of.
type EventKind struct {
	Name     string
	Severity notify.Severity
	// Help says when it happens.
	Help string
	// says makes the summary, %s being the role or the roles, and the value of a field of
	// the event where it is given in braces.
	says string
	// cause names the field by which events of several roles are the same; "" where each is
	// told alone. many is then the summary, without what each role has of its own.
	cause, many string
	// alarm is what it raises, or closes, an alarm of; none where it is empty.
	alarm  alarmOf
	closes bool
}

// everywhere is no field: what happened is the same for all roles.
const everywhere = "-"

// alarmOf is what an alarm is about.
type alarmOf string

const (
	ofRole     alarmOf = "role"
	ofAccess   alarmOf = "access" // to a role
	ofIncident alarmOf = "incident"
	ofAChannel alarmOf = "channel"
)

// EventKinds lists all events, in the order of their names.
var EventKinds = []EventKind{
	{Name: "access_rate.exceeded", Severity: notify.Warning, Help: "A secret is read more often than access_rate_threshold allows.", says: "%s is read {rate} times a minute, more than {threshold}: check for compromise; most of all by {readers}", alarm: ofAccess},
	{Name: "action.required", Severity: notify.Warning, Help: "A person has to do something before the role can go on.", says: "%s needs a person: {reason}", cause: "reason", alarm: ofRole},
	{Name: rotation.AlarmEscalated, Severity: notify.Critical, Help: "Nobody acknowledged an alarm within escalate_after: the next contact is told.", says: "nobody acknowledged since {unacknowledged_since} that %s is {state}: {reason}", alarm: ofRole, cause: "state", many: "nobody acknowledged that these are {state}: %s"},
	{Name: "channel.failing", Severity: notify.Error, Help: "A channel does not take messages.", says: "channel {channel} does not take messages: {reason}", alarm: ofAChannel},
	{Name: "channel.recovered", Severity: notify.Info, Help: "A channel takes messages again.", says: "channel {channel} takes messages again; {lost} were not delivered", alarm: ofAChannel, closes: true},
	{Name: "emergency.declared", Severity: notify.Critical, Help: "Somebody declared that a secret leaked.", says: "emergency ({severity}) of {roles}: {reason}", alarm: ofIncident},
	{Name: "incident.acknowledged", Severity: notify.Info, Help: "Somebody looks after an incident.", says: "incident {incident_id} of {roles} is looked after"},
	{Name: "incident.closed", Severity: notify.Info, Help: "An incident was closed.", says: "incident {incident_id} of {roles} was closed: {conclusion}", alarm: ofIncident, closes: true},
	{Name: "incident.contained", Severity: notify.Warning, Help: "Every leaked version is proven dead.", says: "incident {incident_id} of {roles} is contained: every leaked version is proven dead", alarm: ofIncident, closes: true},
	{Name: "incident.escalated", Severity: notify.Critical, Help: "Nobody acknowledged an incident within escalate_after: the next contact is told.", says: "nobody acknowledged incident {incident_id} of {roles}: {reason}", alarm: ofIncident},
	{Name: "incident.severity", Severity: notify.Warning, Help: "The severity of an incident changed.", says: "incident {incident_id} of {roles} is {severity} now"},
	{Name: "mirror.changed", Severity: notify.Warning, Help: "Somebody else wrote, or removed, the copy that a role has elsewhere.", says: "the copy of %s at {mirror} is not ours any more: {what}; {then}", cause: everywhere, many: "the copies of %s elsewhere are not ours any more"},
	{Name: "mirror.written", Severity: notify.Info, Help: "The current version was copied to where the role is mirrored.", says: "version {version} of %s was copied to {mirror} as version {mirror_version}", cause: everywhere, many: "the current version of %s was copied to where it is mirrored"},
	{Name: "reencryption.ended", Severity: notify.Info, Help: "All stored data is under the current version.", says: "the data of %s followed to version {version}", cause: everywhere, many: "the data of %s followed to the current version"},
	{Name: "reencryption.failing", Severity: notify.Error, Help: "The re-encryption of a role's data does not go on.", says: "the re-encryption of the data of %s fails: {error}", cause: "error", alarm: ofRole},
	{Name: "reencryption.left", Severity: notify.Warning, Help: "A pass left values under earlier versions.", says: "data of %s is left under earlier versions: {what}"},
	{Name: "role.blocked", Severity: notify.Error, Help: "The attempts are used up, or a rotation was rolled back: nothing happens until a person acts.", says: "%s is blocked: {reason}", cause: "reason", alarm: ofRole},
	{Name: "role.diverged", Severity: notify.Error, Help: "The world outside is ahead of this Vault: nothing changes until a person reconciles.", says: "%s diverged: {reason}", cause: everywhere, many: "the world outside is ahead of this Vault: %s diverged", alarm: ofRole},
	{Name: "role.failing", Severity: notify.Error, Help: "Something but a rotation fails: an old version cannot be ended or proven dead, the next one cannot be made ahead, data does not follow.", says: "%s fails: {reason}", cause: rotation.AlarmCause, many: "%s fail: {cause}", alarm: ofRole},
	{Name: rotation.AlarmOver, Severity: notify.Info, Help: "A role that people were told of is well again.", says: "%s is well again (was {was})", cause: "was", alarm: ofRole, closes: true},
	{Name: "rotation.failed", Severity: notify.Error, Help: "An attempt of a rotation failed.", says: "rotation of %s failed in phase {phase}: {error}; {then}", cause: "error", many: "rotation of %s failed: {error}", alarm: ofRole},
	{Name: "rotation.overdue", Severity: notify.Error, Help: "A rotation is later than overdue_after; it is tried outside its window.", says: "the rotation of %s is overdue: {reason}", cause: "state", many: "the rotation of %s is overdue", alarm: ofRole},
	{Name: "rotation.postponed", Severity: notify.Warning, Help: "The checklist before a rotation found a reason not to begin.", says: "the rotation of %s was postponed: {reason}", cause: "reason", alarm: ofRole},
	{Name: "rotation.rolled_back", Severity: notify.Error, Help: "Dependents failed after the switch, and the pointer went back.", says: "the rotation of %s was rolled back: {error}", cause: "error", alarm: ofRole},
	{Name: "rotation.succeeded", Severity: notify.Info, Help: "A rotation, an import or a rollback ended well.", says: "%s rotated to version {version} ({trigger})", cause: "trigger", many: "%s rotated ({trigger})"},
	{Name: "rotation.upcoming", Severity: notify.Info, Help: "A rotation is due within notify_before.", says: "%s rotates at {at}", cause: "at"},
	{Name: "version.activated", Severity: notify.Info, Help: "Readers get another version.", says: "readers of %s get version {version}", cause: "trigger", many: "readers of %s get another version ({trigger})"},
	{Name: "version.cleared", Severity: notify.Info, Help: "A count found nothing under an earlier version of an encryption key.", says: "nothing is left under version {version} of %s"},
	{Name: "version.missed", Severity: notify.Error, Help: "Somebody had need of a version that ended.", says: "somebody had need of version {version} of %s, which ended"},
	{Name: "version.staged", Severity: notify.Info, Help: "A new key stands by, beside the one in use.", says: "a new version of %s stands by", cause: everywhere},
	{Name: "version.still_used", Severity: notify.Warning, Help: "Somebody still uses a version whose grace is nearly over.", says: "version {version} of %s ends at {retire_at} and is still used by {users}", cause: everywhere, many: "old versions of %s are still used, and end soon"},
	{Name: "window.closed", Severity: notify.Info, Help: "The maintenance window of a re-encryption closed.", says: "the maintenance window of %s closed: {then}", cause: "then"},
	{Name: "window.opened", Severity: notify.Info, Help: "The maintenance window of a re-encryption opened.", says: "the maintenance window of %s is open until {closes}", cause: "closes"},
}

// eventKind returns the kind of an event. One that a later release stored is told plainly.
func eventKind(name string) EventKind {
	i := slices.IndexFunc(EventKinds, func(k EventKind) bool { return k.Name == name })
	if i < 0 {
		return EventKind{Name: name, Severity: notify.Info, says: name + ": %s"}
	}
	return EventKinds[i]
}

// kindOf returns the kind of an event as it happened: what fails while a role is made is
// told to whoever makes it, and no alarm of a role that is not.
func kindOf(ev rotation.Event) EventKind {
	kind := eventKind(ev.Type)
	if t := rotation.Trigger(ev.Data["trigger"]); kind.alarm == ofRole && (t == rotation.Initial || t == rotation.Import) {
		kind.alarm = ""
	}
	return kind
}

// summary is the sentence of an event.
func (k EventKind) summary(roles []string, data map[string]string) string {
	pairs := []string{"%s", namesOf(roles)}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		pairs = append(pairs, "{"+name+"}", data[name])
	}
	if len(roles) < 2 || k.cause == "" { // an incident has one sentence for all of its roles
		return strings.NewReplacer(pairs...).Replace(k.says)
	}
	says := k.says
	if k.many != "" {
		says = k.many
	}
	return fmt.Sprintf("%d roles: %s", len(roles), strings.NewReplacer(pairs...).Replace(says))
}

// maxNamed bounds the roles that a sentence names.
const maxNamed = 10

func namesOf(roles []string) string {
	if more := len(roles) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(roles[:maxNamed], ", "), more)
	}
	return strings.Join(roles, ", ")
}

// same is the key by which events of several roles are told in one message; "" where an
// event is told alone.
func (k EventKind) same(ev rotation.Event) string {
	if k.cause == "" || k.cause == rotation.AlarmCause && ev.Data[k.cause] == "" { // an earlier release told none
		return ""
	}
	return k.Name + " " + ev.Data[k.cause]
}

// alarmKey is what lasts for as long as the alarm does. That a secret is read too often ends with
// the person who looked into it: what happens another day is an alarm of its own.
func (k EventKind) alarmKey(role string, ev rotation.Event) string {
	switch k.alarm {
	case ofRole:
		return string(k.alarm) + "/" + role
	case ofAccess:
		return fmt.Sprintf("%s/%s/%s", k.alarm, role, ev.Time.UTC().Format(time.DateOnly))
	case ofIncident:
		return string(k.alarm) + "/" + ev.Data["incident_id"]
	case ofAChannel:
		return string(k.alarm) + "/" + ev.Data["channel"]
	default:
		return ""
	}
}
