package kubernetes

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
)

// What status/:name, history/:name and the requests answer, as far as tests look at it.
type (
	roleStatus struct {
		State    string          `json:"state"`
		Reason   string          `json:"state_reason"`
		Current  int             `json:"current_version"`
		Rotation *rotationAnswer `json:"rotation"`
		Last     *rotationAnswer `json:"last_rotation"`
		Versions []versionAnswer `json:"versions"`
	}
	rotationAnswer struct {
		ID       string       `json:"rotation_id"`
		Trigger  string       `json:"trigger"`
		Phase    string       `json:"phase"`
		Outcome  string       `json:"outcome"`
		Version  int          `json:"version"`
		Previous int          `json:"previous_version"`
		Steps    []stepAnswer `json:"steps"`
		Error    *struct {
			Kind    string `json:"kind"`
			Message string `json:"message"`
		} `json:"error"`
	}
	stepAnswer struct {
		Name   string `json:"name"`
		State  string `json:"state"`
		Detail string `json:"detail"`
	}
	versionAnswer struct {
		Version    int    `json:"version"`
		State      string `json:"state"`
		Identifier string `json:"identifier"`
		ProvenDead bool   `json:"proven_dead"`
	}
)

// step is what became of a step, "" where there is none; on the way back it is the second of its name.
func (r *rotationAnswer) step(name string) (last stepAnswer) {
	if r == nil {
		return last
	}
	for _, s := range r.Steps {
		if s.Name == name {
			last = s
		}
	}
	return last
}

// states are all steps and what became of them, in order.
func (r *rotationAnswer) states() (all []string) {
	for _, s := range r.Steps {
		all = append(all, s.Name+" "+s.State)
	}
	return all
}

func (s roleStatus) version(number int) versionAnswer {
	for _, v := range s.Versions {
		if v.Version == number {
			return v
		}
	}
	return versionAnswer{}
}

// attempt makes a request that may be refused, and gives what the plugin said then.
func (w *world) attempt(path string, fields map[string]any) (answer *api.Secret, refusal string) {
	w.t.Helper()
	answer, err := w.vault.Client().Logical().WriteWithContext(w.t.Context(), w.mount+"/"+path, fields)
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode < 500 {
		return answer, strings.TrimSpace(strings.TrimPrefix(strings.Join(refused.Errors, "\n"), "1 error occurred:\n\t* "))
	}
	require.NoError(w.t, err)
	return answer, ""
}

// status reads a role's status, also just after the plugin's process was killed.
func (w *world) status(role string) (s roleStatus) {
	w.t.Helper()
	await.Until(w.t, "status/"+role, func() (bool, any) {
		answer, err := w.vault.Client().Logical().ReadWithContext(w.t.Context(), w.mount+"/status/"+role)
		if err != nil || answer == nil {
			return false, err
		}
		text, err := json.Marshal(answer.Data)
		require.NoError(w.t, err)
		s = roleStatus{}
		return json.Unmarshal(text, &s) == nil, string(text)
	})
	return s
}

// begin asks for a rotation, a rollback or to go on, and gives its id without waiting for its end.
func (w *world) begin(path string, fields map[string]any) (id string) {
	w.t.Helper()
	all := map[string]any{"wait": "0s"}
	for field, value := range fields {
		all[field] = value
	}
	id, _ = w.write(path, all).Data["rotation_id"].(string)
	require.NotEmpty(w.t, id)
	return id
}

// ended waits until a rotation of a role has ended.
func (w *world) ended(role, id string) *rotationAnswer {
	w.t.Helper()
	var s roleStatus
	await.Until(w.t, "the rotation of "+role+" to end", func() (bool, any) {
		s = w.status(role)
		return s.Rotation == nil && s.Last != nil && s.Last.ID == id, describe(s)
	})
	return s.Last
}

// held waits until the rotation in flight waits for a person.
func (w *world) held(role string) roleStatus {
	w.t.Helper()
	var s roleStatus
	await.Until(w.t, "the rotation of "+role+" to be held", func() (bool, any) {
		s = w.status(role)
		return s.State == "action_required" && s.Rotation != nil, describe(s)
	})
	return s
}

func describe(s roleStatus) string {
	text, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// gone waits until a version is retired, proven dead, and its user no more there.
func (w *world) gone(role string, version int) {
	w.t.Helper()
	var v versionAnswer
	await.Until(w.t, "the end of a version", func() (bool, any) {
		v = w.status(role).version(version)
		return v.State == "retired" && v.ProvenDead, v
	})
	require.NotEmpty(w.t, v.Identifier)
	require.Equal(w.t, "0", w.postgres.MustQuery(w.t, w.mount, "SELECT count(*)::text FROM pg_roles WHERE rolname = '"+v.Identifier+"'"))
}
