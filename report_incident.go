package rotationsecrets

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// incidentReport is the record as a document in Markdown. What people and targets said
// stands in it as text alone (markdown.go): no heading, table or link is theirs.
func incidentReport(i *store.Incident) string {
	d := &markdown{}
	d.line("# Incident " + inline(i.ID))
	d.section("")
	d.quote(i.Reason)
	d.section("Facts")
	d.table([]string{"", ""}, facts(i))
	d.section("Timeline")
	d.table([]string{"Time (UTC)", "Role", "Action", "Result", "Detail"}, timeline(i))
	d.section("Leaked versions")
	d.table([]string{"Role", "Version", "Identifier", "Revoked", "Sessions ended", "Proof of its end", "Replaced by"}, leakedVersions(i))
	d.section("Who had read them")
	d.table([]string{"Role", "Version", "Who", "Address", "Reads", "First", "Last"}, readerRows(i))
	d.section("Who was told")
	d.table([]string{"Channel", "Event", "Role", "Status", "Time", "Attempts", "Detail"}, toldRows(i.Told))
	d.section("Notes")
	for _, n := range i.Notes {
		d.line(fmt.Sprintf("%s, %s:", inline(stamp(n.Time)), inline(who(n.Actor))))
		d.line("")
		d.quote(n.Text)
		d.line("")
	}
	d.orNone(len(i.Notes))
	d.section("Next steps")
	steps := backend.IncidentSteps(i)
	for _, step := range steps {
		d.line("- " + inline(step))
	}
	d.orNone(len(steps))
	d.section("Conclusion")
	if i.Closing != nil {
		d.quote(i.Closing.Conclusion)
	} else {
		d.line("Not closed yet.")
	}
	return d.String()
}

func facts(i *store.Incident) [][]string {
	rows := [][]string{
		{"Status", string(i.Status)},
		{"Severity", i.Severity},
		{"Roles", strconv.Itoa(len(i.Marks))},
		{"Declared by", who(i.Actor)},
		{"Detected", stamp(i.DetectedTime)},
		{"Opened", stamp(i.OpenedTime)},
		{"Contained", cmp.Or(stamp(i.ContainedTime), "not yet")},
	}
	if i.KillFirst {
		rows = append(rows, []string{"Declared with", "kill_first: what leaked ended before it was replaced"})
	}
	if a := i.Acknowledged; a != nil {
		rows = append(rows, []string{"Acknowledged", stamp(a.Time) + " by " + who(a.Actor)})
	}
	if c := i.Closing; c != nil {
		rows = append(rows, []string{"Closed", stamp(i.ClosedTime) + " by " + who(c.Actor)})
		if c.Forced {
			rows = append(rows, []string{"Closed before it was contained", c.Reason})
		}
	}
	return rows
}

// timeline is what was done for the roles, and what happened to the incident.
func timeline(i *store.Incident) (rows [][]string) {
	steps := stepsOf(i)
	add := func(at time.Time, action, detail string) {
		if !at.IsZero() {
			steps = append(steps, roleStep{"", store.IncidentStep{Time: at, Action: action, Result: "done", Detail: detail}})
		}
	}
	add(i.OpenedTime, "declare", "by "+who(i.Actor))
	if a := i.Acknowledged; a != nil {
		add(a.Time, "acknowledge", "by "+who(a.Actor))
	}
	add(i.ContainedTime, "contain", "every leaked version is proven dead")
	if c := i.Closing; c != nil {
		add(i.ClosedTime, "close", "by "+who(c.Actor))
	}
	slices.SortStableFunc(steps, func(a, b roleStep) int { return a.Time.Compare(b.Time) })
	for _, s := range steps {
		rows = append(rows, []string{stamp(s.Time), s.role, s.Action, s.Result, s.Detail})
	}
	return rows
}

func leakedVersions(i *store.Incident) (rows [][]string) {
	for _, name := range slices.Sorted(maps.Keys(i.Roles)) {
		r := i.Roles[name]
		replaced := "not yet"
		if r.ReplacedBy != 0 {
			replaced = fmt.Sprintf("version %d, %s", r.ReplacedBy, stamp(r.ReplacedTime))
		}
		for _, v := range r.Compromised {
			proof := "not proven dead yet"
			if v.Proof != nil {
				proof = stamp(v.Proof.Time) + ": " + v.Proof.Result
			}
			rows = append(rows, []string{
				name, strconv.Itoa(v.Version), v.Identifier, cmp.Or(stamp(v.RevokedTime), "not yet"), strconv.Itoa(v.SessionsEnded), proof, replaced,
			})
		}
	}
	return rows
}

func readerRows(i *store.Incident) (rows [][]string) {
	for _, r := range readersOf(i) {
		rows = append(rows, []string{
			r.Role, strconv.Itoa(r.Version), who(rotation.Actor{EntityID: r.EntityID, DisplayName: r.DisplayName, AccessorHash: r.AccessorHash}),
			r.Address, strconv.FormatInt(r.Reads, 10), stamp(r.First), stamp(r.Last),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(i.Roles)) {
		if more := i.Roles[name].MoreReaders; more > 0 {
			rows = append(rows, []string{name, "", fmt.Sprintf("and %d more", more), "", "", "", ""})
		}
	}
	return rows
}

func toldRows(told []store.IncidentTold) (rows [][]string) {
	for _, t := range told {
		for _, e := range t.Events {
			rows = append(rows, []string{t.Channel, e.Type, e.Role, e.Status, stamp(e.Time), strconv.Itoa(e.Attempts), e.Detail})
		}
		rows = append(rows, []string{t.Channel, "in all", "", fmt.Sprintf("%d delivered, %d not", t.Delivered, t.Undelivered), stamp(t.Last), "", ""})
	}
	return rows
}

// who names an actor as well as is known.
func who(a rotation.Actor) string {
	name := cmp.Or(a.DisplayName, a.EntityID)
	switch {
	case a == rotation.Actor{}:
		return "nobody known"
	case name == "":
		return "token accessor " + a.AccessorHash
	case a.EntityID != "" && a.DisplayName != "":
		return fmt.Sprintf("%s (entity %s)", name, a.EntityID)
	default:
		return name
	}
}

// stamp is empty for no time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
