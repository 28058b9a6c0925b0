package rotationsecrets

import "github.com/hashicorp/vault/sdk/framework"

// The schemas of what render.go renders.

func always(t framework.FieldType, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: t, Required: true, Description: description}
}

func sometimes(t framework.FieldType, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: t, Description: description}
}

func text(about string) *framework.FieldSchema   { return always(framework.TypeString, about) }
func number(about string) *framework.FieldSchema { return always(framework.TypeInt, about) }
func flag(about string) *framework.FieldSchema   { return always(framework.TypeBool, about) }
func moment(about string) *framework.FieldSchema { return always(framework.TypeTime, about) }
func object(about string) *framework.FieldSchema { return always(framework.TypeMap, about) }
func list(about string) *framework.FieldSchema   { return always(framework.TypeSlice, about) }

func rotationFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"rotation_id":      text("Id of the rotation; it stands in the mark on the object outside."),
		"trigger":          text("What started it: initial, scheduled, manual, emergency, rollback or import."),
		"phase":            text("How far it got: planned, prepared, verified, active or rolled_out."),
		"outcome":          text("How it ended: succeeded, failed, rolled_back, superseded or blocked; null while it is in flight."),
		"version":          number("The version that it makes current."),
		"previous_version": number("The version that was current when it began."),
		"attempt":          number("Which attempt this is, from 1."),
		"retry_of":         text("Id of the rotation that this one repeats."),
		"reason":           text("Reason given by whoever asked."),
		"actor":            object("Who asked: entity_id, display_name, accessor_hash (HMAC-SHA256 of the token's accessor); null for the engine itself."),
		"started_time":     moment("When it began."),
		"ended_time":       moment("When it ended."),
		"error":            object("Why it failed: kind, message."),
		"steps":            list("Steps between active and rolled_out: name, state (running, done, failed), detail, started_time, ended_time."),
		"incident_id":      text("The incident that it belongs to."),
	}
}

func versionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"version":        number("Number of the version; numbers are never reused."),
		"state":          text("pending, standby, current, retiring, disabled, retired or discarded."),
		"compromised":    flag("Whether an emergency declared it leaked: it is never rolled back to."),
		"created_time":   moment("When it was made."),
		"ready_at":       moment("From when on it may take over, of a version that stands by: it is announced before it is used."),
		"activated_time": moment("When it last became current."),
		"retire_at":      moment("When its grace ends; it only ever moves later."),
		"retired_time":   moment("When it was ended."),
		"proven_dead":    flag("Whether the target itself refused it while the current version was accepted."),
		"identifier":     text("Name of the object outside: user, key id, kid."),
		"in_use":         list("Who still uses it: application_name, client_addr, count; null when nobody was asked."),
	}
}

func lineFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"check":  text("What was looked at."),
		"result": text("pass, warn or fail."),
		"detail": text("What was found, and what would help."),
	}
}

func linesFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"lines": list("The result, line by line: check, result (pass, warn or fail), detail."),
	}
}
