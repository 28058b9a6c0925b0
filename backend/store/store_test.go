package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// fill gives every field of a document, at any depth, a content of its own: a field
// that is added later is covered without a word here.
func fill(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2030, 1, 1, 0, 0, *n, *n, time.UTC)))
		return
	case rotation.Duration:
		v.SetInt(int64(*n) * int64(time.Second))
		return
	case json.RawMessage:
		v.SetBytes(fmt.Appendf(nil, `{"n":%d}`, *n))
		return
	case option.Values: // as JSON gives them back
		v.Set(reflect.ValueOf(option.Values{"text": fmt.Sprint(*n), "number": float64(*n), "list": []any{"a"}, "on": true}))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8:
		v.SetUint(uint64(*n % 256))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0), n)
		fill(t, v.Index(1), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, n)
		fill(t, value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			require.True(t, v.Type().Field(i).IsExported(), "%s.%s would not be stored", v.Type(), v.Type().Field(i).Name)
			fill(t, v.Field(i), n)
		}
	default:
		require.Fail(t, "no way to fill", "%s", v.Type())
	}
}

func full[T any](t *testing.T) (doc T) {
	t.Helper()
	fill(t, reflect.ValueOf(&doc).Elem(), new(int))
	return doc
}

func newStore() (*Store, *logical.InmemStorage) {
	s := &logical.InmemStorage{}
	return New(FromLogical(s)), s
}

// kind is one kind of document: how it is written and read, and where it lies.
type kind struct {
	key  string
	form schema
	put  func(context.Context, *Store) (any, error) // what was written
	get  func(context.Context, *Store) (any, error)
}

const name = "billing-db"

var started = time.Date(2030, 1, 1, 0, 0, 0, 5, time.UTC)

func kinds(t *testing.T) map[string]kind {
	t.Helper()
	return map[string]kind{
		"config": {
			"config", configSchema,
			func(ctx context.Context, s *Store) (any, error) { d := full[Config](t); return d, s.PutConfig(ctx, d) },
			func(ctx context.Context, s *Store) (any, error) { return s.Config(ctx) },
		},
		"instance": {
			"instance", instanceSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[Instance](t)
				return &d, s.PutInstance(ctx, d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.Instance(ctx) },
		},
		"connection": {
			"connection/" + name, connectionSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[Connection](t)
				d.Name = name
				return &d, s.PutConnection(ctx, &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.Connection(ctx, name) },
		},
		"role": {
			"role/" + name, roleSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[Role](t)
				d.Name = name
				return &d, s.PutRole(ctx, &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.Role(ctx, name) },
		},
		"state": {
			"state/" + name, stateSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[rotation.State](t)
				return &d, s.PutState(ctx, name, &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.State(ctx, name) },
		},
		"target": {
			"target/" + name + "/cards", targetSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[reencrypt.Target](t)
				return &d, s.PutTarget(ctx, name, "cards", &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.Target(ctx, name, "cards") },
		},
		"progress": {
			"reencryption/" + name + "/cards", progressSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[TargetProgress](t)
				return &d, s.PutProgress(ctx, name, "cards", &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.Progress(ctx, name, "cards") },
		},
		"channel": {
			"channel/" + name, channelSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[Channel](t)
				d.Name = name
				return &d, s.PutChannel(ctx, &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.Channel(ctx, name) },
		},
		"deliveries": {
			"deliveries/" + name, deliverySchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[Deliveries](t)
				return &d, s.PutDeliveries(ctx, name, &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.Deliveries(ctx, name) },
		},
		"outbox": {
			"outbox/" + name + "/" + OutboxKey(started, "app", "event"), outboxSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[Queued](t)
				return &d, s.PutQueued(ctx, name, OutboxKey(started, "app", "event"), &d)
			},
			func(ctx context.Context, s *Store) (any, error) {
				return s.Queued(ctx, name, OutboxKey(started, "app", "event"))
			},
		},
		"material": {
			"material/" + name + "/7", materialSchema,
			func(ctx context.Context, s *Store) (any, error) {
				m := secret.NewMap(map[string]string{"username": "u", "password": "p"})
				return m, s.PutMaterial(ctx, name, 7, m)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.Material(ctx, name, 7) },
		},
		"access": {
			"access/" + name, accessSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[AccessLog](t)
				return &d, s.PutAccessLog(ctx, name, &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.AccessLog(ctx, name) },
		},
		"history": {
			"history/" + name + "/01893456000000000005-id", historySchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[rotation.Rotation](t)
				d.ID, d.StartedTime = "id", started
				return []rotation.Rotation{d}, s.PutHistory(ctx, name, &d)
			},
			func(ctx context.Context, s *Store) (any, error) {
				records, _, err := s.History(ctx, name, "", 10)
				return records, err
			},
		},
		"tombstone": {
			"tombstone/" + name, tombstoneSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[Tombstone](t)
				return &d, s.PutTombstone(ctx, name, &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.Tombstone(ctx, name) },
		},
		"incident": {
			"incident/20300101T000000Z-1", incidentSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[IncidentHeader](t)
				d.ID = "20300101T000000Z-1"
				return &d, s.PutIncidentHeader(ctx, &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.IncidentHeader(ctx, "20300101T000000Z-1") },
		},
		"incident-role": {
			"incident-role/20300101T000000Z-1/" + name, incidentRoleSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[IncidentRole](t)
				return &d, s.PutIncidentRole(ctx, "20300101T000000Z-1", name, &d)
			},
			func(ctx context.Context, s *Store) (any, error) {
				return s.IncidentRole(ctx, "20300101T000000Z-1", name)
			},
		},
		"incident-note": {
			"incident-note/20300101T000000Z-1/0007", incidentNoteSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[IncidentNote](t)
				return []IncidentNote{d}, s.PutIncidentNote(ctx, "20300101T000000Z-1", 7, &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.IncidentNotes(ctx, "20300101T000000Z-1") },
		},
		"told": {
			"told/20300101T000000Z-1/pager", incidentToldSchema,
			func(ctx context.Context, s *Store) (any, error) {
				d := full[IncidentTold](t)
				d.Channel = "pager"
				return []IncidentTold{d}, s.PutIncidentTold(ctx, "20300101T000000Z-1", &d)
			},
			func(ctx context.Context, s *Store) (any, error) { return s.IncidentTold(ctx, "20300101T000000Z-1") },
		},
	}
}

// A field that is lost on reload is a promise that is lost with the process.
func TestEveryDocumentSurvivesStorage(t *testing.T) {
	t.Parallel()
	for what, k := range kinds(t) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, raw := newStore()
			written, err := k.put(t.Context(), s)
			require.NoError(t, err)
			keys, err := logical.CollectKeys(t.Context(), raw)
			require.NoError(t, err)
			require.Equal(t, []string{k.key}, keys, "one document, one key")
			read, err := k.get(t.Context(), s)
			require.NoError(t, err)
			require.Equal(t, written, read)
		})
	}
}

func TestAbsentDocuments(t *testing.T) {
	t.Parallel()
	for what, k := range kinds(t) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, _ := newStore()
			got, err := k.get(t.Context(), s)
			require.NoError(t, err)
			if what == "config" {
				require.Equal(t, DefaultConfig(), got, "the default is in force")
				return
			}
			require.True(t, reflect.ValueOf(got).IsNil())
		})
	}
}

// What a release wrote must be readable for good: no line of these files is ever
// changed. A change of form adds an upgrade and a file beside them; a field that
// older documents may lack is added to the newest file.
func TestFixturesOfEverySchemaDecode(t *testing.T) {
	t.Parallel()
	for what, k := range kinds(t) {
		for number := 1; number <= k.form.number(); number++ {
			t.Run(fmt.Sprintf("%s, schema %d", what, number), func(t *testing.T) {
				t.Parallel()
				fixture, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("%s.v%d.json", what, number)))
				require.NoError(t, err, "every schema has its fixture")
				s, raw := newStore()
				require.NoError(t, raw.Put(t.Context(), &logical.StorageEntry{Key: k.key, Value: fixture}))
				got, err := k.get(t.Context(), s)
				require.NoError(t, err)

				// Read, written and read again it is the same: nothing was ignored.
				var stored, again envelope
				require.NoError(t, json.Unmarshal(fixture, &stored))
				require.Equal(t, number, stored.Schema)
				if number < k.form.number() {
					return
				}
				if list := reflect.ValueOf(got); list.Kind() == reflect.Slice {
					got = list.Index(0).Interface()
				}
				if m, ok := got.(secret.Map); ok {
					got = m.Reveal()
				}
				require.NoError(t, s.write(t.Context(), "again", k.form, got))
				entry, err := raw.Get(t.Context(), "again")
				require.NoError(t, err)
				require.NoError(t, json.Unmarshal(entry.Value, &again))
				require.Equal(t, stored.Schema, again.Schema)
				require.JSONEq(t, string(stored.Body), string(again.Body))
			})
		}
	}
}

// A fixture that speaks of half the fields proves half.
func TestFixturesSpeakOfEveryField(t *testing.T) {
	t.Parallel()
	for what, k := range kinds(t) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, raw := newStore()
			_, err := k.put(t.Context(), s)
			require.NoError(t, err)
			entry, err := raw.Get(t.Context(), k.key)
			require.NoError(t, err)
			fixture, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("%s.v%d.json", what, k.form.number())))
			require.NoError(t, err)
			require.Equal(t, names(t, entry.Value, what), names(t, fixture, what))
		})
	}
}

// names are the paths of all JSON names of a document, but for those within what
// operators and kinds name themselves.
func names(t *testing.T, raw []byte, what string) map[string]bool {
	t.Helper()
	var doc any
	require.NoError(t, json.Unmarshal(raw, &doc))
	free := map[string]bool{
		"values": true, "secrets": true, "next_secrets": true, "custom_metadata": true, "mirror_fields": true, "data": true, "object": true,
		"roles": what != "incident", "drains": true, "alarms": true, "versions": what == "progress",
	}
	out := map[string]bool{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, inner := range v {
				if path == "/body/roles" || what == "material" && path == "/body" { // names of roles, of secrets
					key = "*"
				}
				out[path+"/"+key] = true
				if !free[key] {
					walk(path+"/"+key, inner)
				}
			}
		case []any:
			for _, inner := range v {
				walk(path+"[]", inner)
			}
		}
	}
	walk("", doc)
	return out
}

type doc struct {
	Full string `json:"full"`
}

// grown is a document that changed its form twice.
var grown = schema{what: "test document", upgrades: []upgrade{
	func(body json.RawMessage) (json.RawMessage, error) { // 1 had two names
		var old struct{ First, Last string }
		if err := json.Unmarshal(body, &old); err != nil {
			return nil, err
		}
		return json.Marshal(map[string]string{"name": old.First + " " + old.Last})
	},
	func(body json.RawMessage) (json.RawMessage, error) { // 2 called it name
		var old struct{ Name string }
		if err := json.Unmarshal(body, &old); err != nil {
			return nil, err
		}
		return json.Marshal(doc{Full: old.Name})
	},
}}

func TestAnOlderSchemaIsUpgraded(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"schema":1,"body":{"first":"Ada","last":"Lovelace"}}`: "Ada Lovelace",
		`{"schema":2,"body":{"name":"Ada L."}}`:                 "Ada L.",
		`{"schema":3,"body":{"full":"A. L."}}`:                  "A. L.",
	} {
		s, raw := newStore()
		require.NoError(t, raw.Put(t.Context(), &logical.StorageEntry{Key: "x", Value: []byte(text)}))
		var got doc
		found, err := s.read(t.Context(), "x", grown, &got)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, want, got.Full)

		require.NoError(t, s.write(t.Context(), "x", grown, got))
		entry, err := raw.Get(t.Context(), "x")
		require.NoError(t, err)
		require.JSONEq(t, fmt.Sprintf(`{"schema":3,"body":{"full":%q}}`, want), string(entry.Value), "written in the form of this release")
	}
}

func TestWhatCannotBeReadIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"newer":         {`{"schema":4,"body":{}}`, "x was written by a newer release of this plugin (schema 4, this release knows up to 3): run that release again, or restore a backup made before the upgrade"},
		"no number":     {`{"body":{}}`, "no schema number"},
		"negative":      {`{"schema":-1,"body":{}}`, "no schema number"},
		"no envelope":   {`[]`, "decode x"},
		"no JSON":       {`{`, "decode x"},
		"upgrade fails": {`{"schema":1,"body":[]}`, "upgrade x (test document)"},
		"another form":  {`{"schema":3,"body":{"full":7}}`, "decode x (test document)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, raw := newStore()
			require.NoError(t, raw.Put(t.Context(), &logical.StorageEntry{Key: "x", Value: []byte(tc.text)}))
			_, err := s.read(t.Context(), "x", grown, &doc{})
			require.ErrorContains(t, err, tc.want)
			var newer *NewerSchemaError
			require.Equal(t, name == "newer", errors.As(err, &newer))
		})
	}
	s, _ := newStore()
	require.ErrorContains(t, s.write(t.Context(), "x", grown, func() {}), "encode x (test document)")
}

// Every kind of document refuses what a later release wrote, in the same words.
func TestEveryDocumentOfANewerReleaseIsRefused(t *testing.T) {
	t.Parallel()
	for what, k := range kinds(t) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, raw := newStore()
			require.NoError(t, raw.Put(t.Context(), &logical.StorageEntry{Key: k.key, Value: []byte(`{"schema":99,"body":{}}`)}))
			_, err := k.get(t.Context(), s)
			var newer *NewerSchemaError
			require.ErrorAs(t, err, &newer)
			require.Equal(t, NewerSchemaError{Key: k.key, Found: 99, Know: k.form.number()}, *newer)
		})
	}
}

func TestSealWrap(t *testing.T) {
	t.Parallel()
	wrapped := map[string]bool{"channel": true, "instance": true, "connection": true, "material": true}
	for what, k := range kinds(t) {
		s, raw := newStore()
		_, err := k.put(t.Context(), s)
		require.NoError(t, err)
		seen := recorder{raw: raw}
		_, err = k.put(t.Context(), New(FromLogical(&seen)))
		require.NoError(t, err)
		require.Equal(t, wrapped[what], seen.last.SealWrap, what)
	}
	require.Equal(t, []string{"instance", "connection/", "channel/", "material/"}, SealWrapped())
	require.False(t, sealWrapped("instance2"), "a key is not a prefix")
	require.False(t, sealWrapped("connection"))
}

// recorder keeps the last entry that was put.
type recorder struct {
	raw  logical.Storage
	last *logical.StorageEntry
}

func (r *recorder) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	return r.raw.Get(ctx, key)
}

func (r *recorder) Put(ctx context.Context, e *logical.StorageEntry) error {
	r.last = e
	return r.raw.Put(ctx, e)
}
func (r *recorder) Delete(ctx context.Context, key string) error { return r.raw.Delete(ctx, key) }
func (r *recorder) List(ctx context.Context, prefix string) ([]string, error) {
	return r.raw.List(ctx, prefix)
}

func TestRoleOf(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"role/a": "a", "state/a": "a", "tombstone/a": "a", "material/a/7": "a",
		"config": "", "instance": "", "connection/a": "", "history/a/1": "", "incident/a": "", "access/a": "", "material/": "", "material/a": "",
	} {
		require.Equal(t, want, RoleOf(key), key)
		require.Equal(t, key == "connection/a", IsConnection(key))
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	s, _ := newStore()
	put := func(role string, n int) {
		r := rotation.Rotation{ID: fmt.Sprintf("id-%d", n), StartedTime: started.Add(time.Duration(n) * time.Second)}
		require.NoError(t, s.PutHistory(t.Context(), role, &r))
	}
	for _, n := range []int{3, 1, 5, 2, 4, 4} { // in any order, and one twice
		put(name, n)
		put("other", n)
	}
	page := func(before string, limit int) (ids []string, next string) {
		records, next, err := s.History(t.Context(), name, before, limit)
		require.NoError(t, err)
		for _, r := range records {
			ids = append(ids, r.ID)
		}
		return ids, next
	}
	ids, next := page("", 2)
	require.Equal(t, []string{"id-5", "id-4"}, ids, "newest first")
	ids, next = page(next, 2)
	require.Equal(t, []string{"id-3", "id-2"}, ids)
	put(name, 6) // what is added meanwhile does not shift the page
	ids, next = page(next, 2)
	require.Equal(t, []string{"id-1"}, ids)
	require.Empty(t, next, "the end")
	_, next = page("", 6)
	require.Empty(t, next, "a page that just fits is the last")

	require.NoError(t, s.TrimHistory(t.Context(), name, 10))
	require.NoError(t, s.TrimHistory(t.Context(), name, 2))
	ids, _ = page("", 10)
	require.Equal(t, []string{"id-6", "id-5"}, ids)
	others, _, err := s.History(t.Context(), "other", "", 10)
	require.NoError(t, err)
	require.Len(t, others, 5)
	require.NoError(t, s.TrimHistory(t.Context(), name, 0))
	ids, _ = page("", 10)
	require.Empty(t, ids)
}

func TestDeleteRoleLeavesMaterialReadersAndTombstone(t *testing.T) {
	t.Parallel()
	s, raw := newStore()
	for _, k := range kinds(t) {
		_, err := k.put(t.Context(), s)
		require.NoError(t, err)
	}
	require.NoError(t, s.PutRole(t.Context(), &Role{Name: name + "2"}))
	require.NoError(t, s.DeleteRole(t.Context(), name))
	keys := func() (keys []string) {
		keys, err := logical.CollectKeys(t.Context(), raw)
		require.NoError(t, err)
		return keys
	}
	rest := []string{
		"config", "instance", "access/" + name, "connection/" + name, "role/" + name + "2", "tombstone/" + name, "incident/20300101T000000Z-1",
		"incident-role/20300101T000000Z-1/" + name, "incident-note/20300101T000000Z-1/0007", "told/20300101T000000Z-1/pager",
		"channel/" + name, "deliveries/" + name, "outbox/" + name + "/" + OutboxKey(started, "app", "event"),
	}
	require.ElementsMatch(t, append([]string{"material/" + name + "/7"}, rest...), keys())
	require.NoError(t, s.PutMaterial(t.Context(), name, 10, nil))
	require.NoError(t, s.PutMaterial(t.Context(), name+"2", 1, nil))
	require.NoError(t, s.DeleteAllMaterial(t.Context(), name))
	require.ElementsMatch(t, append([]string{"material/" + name + "2/1"}, rest...), keys())
	require.NoError(t, s.DeleteRole(t.Context(), "never was"))

	require.NoError(t, s.DeleteMaterial(t.Context(), name+"2", 1))
	require.NoError(t, s.DeleteAccessLog(t.Context(), name))
	require.NotContains(t, keys(), "access/"+name)
	require.NoError(t, s.DeleteConnection(t.Context(), name))
	require.NotContains(t, keys(), "connection/"+name)
	require.NotContains(t, keys(), "material/"+name+"2/1")
}

func TestLists(t *testing.T) {
	t.Parallel()
	s, _ := newStore()
	for _, n := range []string{"b", "a"} {
		require.NoError(t, s.PutRole(t.Context(), &Role{Name: n}))
		require.NoError(t, s.PutConnection(t.Context(), &Connection{Name: n}))
		require.NoError(t, s.PutTombstone(t.Context(), n, &Tombstone{}))
		require.NoError(t, s.PutIncidentHeader(t.Context(), &IncidentHeader{ID: n}))
	}
	for what, list := range map[string]func(context.Context) ([]string, error){
		"roles": s.Roles, "connections": s.Connections, "tombstones": s.Tombstones, "incidents": s.Incidents,
	} {
		got, err := list(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"a", "b"}, got, what)
	}
}

var errDisk = errors.New("the disk is full")

// broken is a storage of which one operation fails.
type broken struct {
	Storage
	op string
}

func (b broken) fails(op string) error {
	if b.op == op {
		return errDisk
	}
	return nil
}

func (b broken) Get(ctx context.Context, key string) ([]byte, error) {
	if err := b.fails("read"); err != nil {
		return nil, err
	}
	return b.Storage.Get(ctx, key)
}

func (b broken) Put(ctx context.Context, key string, value []byte) error {
	if err := b.fails("write"); err != nil {
		return err
	}
	return b.Storage.Put(ctx, key, value)
}

func (b broken) Delete(ctx context.Context, key string) error {
	if err := b.fails("delete"); err != nil {
		return err
	}
	return b.Storage.Delete(ctx, key)
}

func (b broken) List(ctx context.Context, prefix string) ([]string, error) {
	if err := b.fails("list"); err != nil {
		return nil, err
	}
	return b.Storage.List(ctx, prefix)
}

// The engine tells a failure of storage from one of the target by its type, and the
// text names what was done to which key.
func TestStorageFailuresAreIOErrors(t *testing.T) {
	t.Parallel()
	whole := FromLogical(&logical.InmemStorage{})
	for _, k := range kinds(t) {
		_, err := k.put(t.Context(), New(whole))
		require.NoError(t, err)
	}
	check := func(t *testing.T, op string, err error) {
		t.Helper()
		var io *IOError
		require.ErrorAs(t, err, &io)
		require.ErrorIs(t, err, errDisk)
		require.Equal(t, op, io.Op)
		require.Equal(t, fmt.Sprintf("%s %s: the disk is full", op, io.Key), err.Error())
	}
	for what, k := range kinds(t) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, err := k.put(t.Context(), New(broken{whole, "write"}))
			check(t, "write", err)
			_, err = k.get(t.Context(), New(broken{whole, "read"}))
			check(t, "read", err)
		})
	}
	ctx := t.Context()
	for op, do := range map[string][]func(*Store) error{
		"list": {
			func(s *Store) error { _, err := s.Roles(ctx); return err },
			func(s *Store) error { _, err := s.Connections(ctx); return err },
			func(s *Store) error { _, err := s.Tombstones(ctx); return err },
			func(s *Store) error { _, err := s.Incidents(ctx); return err },
			func(s *Store) error { _, _, err := s.History(ctx, name, "", 1); return err },
			func(s *Store) error { return s.TrimHistory(ctx, name, 0) },
			func(s *Store) error { return s.DeleteRole(ctx, name) },
			func(s *Store) error { return s.DeleteAllMaterial(ctx, name) },
		},
		"delete": {
			func(s *Store) error { return s.TrimHistory(ctx, name, 0) },
			func(s *Store) error { return s.DeleteRole(ctx, name) },
			func(s *Store) error { return s.DeleteAllMaterial(ctx, name) },
			func(s *Store) error { return s.DeleteMaterial(ctx, name, 7) },
			func(s *Store) error { return s.DeleteConnection(ctx, name) },
			func(s *Store) error { return s.DeleteAccessLog(ctx, name) },
		},
	} {
		for _, do := range do {
			check(t, op, do(New(broken{whole, op})))
		}
	}
}

func TestMaterialIsStoredPlainButShownNowhere(t *testing.T) {
	t.Parallel()
	s, raw := newStore()
	require.NoError(t, s.PutMaterial(t.Context(), name, 1, secret.NewMap(map[string]string{"password": "canary"})))
	entry, err := raw.Get(t.Context(), materialKey(name, 1))
	require.NoError(t, err)
	require.JSONEq(t, `{"schema":1,"body":{"password":"canary"}}`, string(entry.Value))
	m, err := s.Material(t.Context(), name, 1)
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", m, m, m), "canary")
	require.Equal(t, "canary", m["password"].Reveal())
}

// A document that an earlier release wrote, before fields were added to its schema.
func TestOlderRecordsOfIncidentsAreRead(t *testing.T) {
	t.Parallel()
	s, raw := newStore()
	const id = "20300101T000000Z-1"
	for key, file := range map[string]string{incidentKey(id): "incident.v1.json", incidentRoleFolder(id) + "text 15": "incident-role.v1.json"} {
		fixture, err := os.ReadFile(filepath.Join("testdata", "older", file))
		require.NoError(t, err)
		require.NoError(t, raw.Put(t.Context(), &logical.StorageEntry{Key: key, Value: fixture}))
	}
	got, err := s.Incident(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "text 5", got.Reason)
	require.Equal(t, 41, got.Roles["text 15"].ReplacedBy)
	require.Nil(t, got.Closing)
	require.Nil(t, got.Acknowledged)
	require.Empty(t, got.Events)
	require.Empty(t, got.Notes)
	require.Empty(t, got.Roles["text 15"].Readers)
}

func TestWhatIsKeptOfAnIncidentIsBounded(t *testing.T) {
	t.Parallel()
	var h IncidentHeader
	h.Emit(rotation.Event{ID: "declared", Type: "emergency.declared"})
	for n := range 3 * maxIncidentEvents {
		h.Emit(rotation.Event{ID: fmt.Sprint(n), Type: SeverityChanged})
	}
	h.Emit(rotation.Event{ID: "closed", Type: "incident.closed"})
	require.Len(t, h.Events, maxIncidentEvents)
	require.Equal(t, "declared", h.Events[0].ID, "what happens once is not pushed out")
	require.Equal(t, "closed", h.Events[maxIncidentEvents-1].ID)

	s, _ := newStore()
	told := IncidentTold{Channel: "pager", Delivered: 150, Events: make([]ToldEvent, 150)}
	require.NoError(t, s.PutIncidentTold(t.Context(), "1", &told))
	require.Len(t, told.Events, 150, "the caller's own is left alone")
	got, err := s.IncidentTold(t.Context(), "1")
	require.NoError(t, err)
	require.Len(t, got[0].Events, MaxToldEvents)
	require.Equal(t, 150, got[0].Delivered)
}
