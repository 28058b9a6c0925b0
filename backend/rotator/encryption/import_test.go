package encryption

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/keysutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func secretOf(key string) secret.Map { return secret.NewMap(map[string]string{keyMaterial: key}) }

func importing(values option.Values, field, text string) *rotator.Role {
	return &rotator.Role{Name: "app", Values: values, Secrets: secret.NewMap(map[string]string{field: text})}
}

// taken are the versions that an import makes, as the engine would keep them.
func taken(t *testing.T, r *rotator.Role) *fixture {
	t.Helper()
	require.True(t, New().Imports(r))
	require.NoError(t, New().CheckRole(nil, r))
	planned, err := New().Plan(context.Background(), &rotator.Target{Role: r})
	require.NoError(t, err)
	f := &fixture{role: r, live: &rotator.LiveVersions{Role: r, Now: at}, raw: map[int][]byte{}}
	all := append(slices.Clone(planned.Earlier), *planned)
	for _, earlier := range planned.Earlier {
		require.Empty(t, earlier.Earlier)
	}
	for i, c := range all {
		require.NotEmpty(t, c.Identifier)
		v := rotation.Version{Number: c.Number, State: rotation.Retiring, Identifier: c.Identifier, Object: c.Object, HasMaterial: true}
		if i == len(all)-1 {
			v.State = rotation.Current
		}
		require.NoError(t, New().Verify(context.Background(), &rotator.Target{Role: r, Version: v, Material: c.Material}))
		ready, err := New().Load(&v, c.Material)
		require.NoError(t, err)
		f.live.All = append(f.live.All, rotator.Live{Version: v, Material: c.Material, Ready: ready})
	}
	f.point()
	return f
}

func (f *fixture) numbers() (out []int) {
	for _, l := range f.live.All {
		out = append(out, l.Version.Number)
	}
	return out
}

// transitKey is a key that transit itself made and rotated; least is its
// min_decryption_version.
func transitKey(t *testing.T, kt keysutil.KeyType, derived bool, versions, least int) (*keysutil.Policy, logical.Storage) {
	t.Helper()
	storage := &logical.InmemStorage{}
	p := keysutil.NewPolicy(keysutil.PolicyConfig{Name: "app", Type: kt, Derived: derived, KDF: keysutil.Kdf_hkdf_sha256, Exportable: true, AllowPlaintextBackup: true})
	for range versions {
		require.NoError(t, p.Rotate(t.Context(), storage, random{}))
	}
	p.MinDecryptionVersion = least
	require.NoError(t, p.Persist(t.Context(), storage))
	return p, storage
}

// random counts, which is as good as by chance here: every key is another.
type random struct{}

var counted byte

func (random) Read(p []byte) (int, error) {
	for i := range p {
		counted++
		p[i] = counted ^ byte(i)
	}
	return len(p), nil
}

func backupOf(t *testing.T, p *keysutil.Policy, storage logical.Storage) string {
	t.Helper()
	text, err := p.Backup(t.Context(), storage)
	require.NoError(t, err)
	return text
}

func exportOf(p *keysutil.Policy, whole bool) string {
	keys := map[string]string{}
	for number, entry := range p.Keys {
		keys[number] = base64.StdEncoding.EncodeToString(entry.Key)
	}
	data := map[string]any{"name": p.Name, "type": p.Type.String(), "keys": keys}
	if whole {
		data = map[string]any{"request_id": "1", "lease_duration": 0, "data": data, "warnings": nil}
	}
	raw, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// What transit encrypted with a key decrypts here once the key is taken over, by each
// way, and the other way round.
func TestImportsFromTransit(t *testing.T) {
	for _, kt := range keyTypes {
		for _, derived := range []bool{false, true} {
			p, storage := transitKey(t, kt.keysutil, derived, 5, 3)
			values := option.Values{"key_type": kt.name, "derived": derived}
			item := EncryptItem{Plaintext: b64("x"), Context: b64("c"), AssociatedData: b64("a")}
			for way, r := range map[string]*rotator.Role{
				"backup":           importing(values, "backup", "\n"+backupOf(t, p, storage)+"\n"),
				"export":           importing(values, "import_key", exportOf(p, true)),
				"data of a export": importing(values, "import_key", exportOf(p, false)),
			} {
				t.Run(fmt.Sprintf("%s, %s, derived=%t", way, kt.name, derived), func(t *testing.T) {
					f := taken(t, r)
					require.Equal(t, []int{3, 4, 5}, f.numbers())
					for version := 3; version <= 5; version++ {
						back, err := f.decrypt(t, DecryptItem{Ciphertext: transitEncrypt(t, p, version, item), Context: item.Context, AssociatedData: item.AssociatedData})
						require.NoError(t, err)
						require.Equal(t, "x", back)
					}
					made := f.encrypt(t, item)
					require.NoError(t, made.Err)
					require.Equal(t, 5, made.KeyVersion)
					require.Equal(t, item.Plaintext, transitDecrypt(t, p, DecryptItem{Ciphertext: made.Ciphertext, Context: item.Context, AssociatedData: item.AssociatedData}))
				})
			}
		}
	}
}

func TestImportOfARawKey(t *testing.T) {
	raw := strings.Repeat("k", 32)
	f := taken(t, importing(nil, "import_key", " "+b64(raw)+"\n"))
	require.Equal(t, []int{1}, f.numbers())
	f.raw[1] = []byte(raw)
	transit := f.transit(keysutil.KeyType_AES256_GCM96, false)
	require.Equal(t, b64("x"), transitDecrypt(t, transit, DecryptItem{Ciphertext: f.encrypted(t, "x")}))
	require.False(t, New().Imports(&rotator.Role{}))
}

// A version whose key lies in the archive alone is taken from there.
func TestImportFromTheArchive(t *testing.T) {
	p, storage := transitKey(t, keysutil.KeyType_AES256_GCM96, false, 4, 3)
	text := edited(t, backupOf(t, p, storage), func(policy, _ map[string]any) {
		policy["min_decryption_version"] = 2
	})
	require.NotContains(t, p.Keys, "2")
	require.Equal(t, []int{2, 3, 4}, taken(t, importing(nil, "backup", text)).numbers())
	text = edited(t, text, func(_, archive map[string]any) { archive["keys"] = nil })
	require.EqualError(t, New().CheckRole(nil, importing(nil, "backup", text)), "backup: has no key for version 2, which still decrypts")
}

// edited changes a backup as JSON.
func edited(t *testing.T, text string, change func(policy, archive map[string]any)) string {
	t.Helper()
	var all map[string]map[string]any
	require.NoError(t, json.Unmarshal(unb64(t, text), &all))
	change(all["policy"], all["archived_keys"])
	raw, err := json.Marshal(all)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(raw)
}

func TestBackupsThatAreRefused(t *testing.T) {
	p, storage := transitKey(t, keysutil.KeyType_AES256_GCM96, false, 2, 1)
	good := backupOf(t, p, storage)
	set := func(name string, value any) string {
		return edited(t, good, func(policy, _ map[string]any) { policy[name] = value })
	}
	const none = "backup: is not what transit/backup/<name> answers as backup: base64 of JSON with a policy"
	const type1 = "backup: is of a type that is not supported here; those are aes256-gcm96, chacha20-poly1305, aes128-gcm96"
	const which = "backup: does not say which versions it has (latest_version, min_decryption_version)"
	for name, c := range map[string]struct{ text, want string }{
		"nonsense":        {"hunter2", none},
		"not JSON":        {b64("hunter2"), none},
		"no policy":       {b64(`{"archived_keys":{}}`), none},
		"null":            {b64(`null`), none},
		"list":            {b64(`[]`), none},
		"a number as key": {b64(`{"policy":{"keys":{"1":{"key":7}}}}`), none},
		"huge":            {strings.Repeat("A", maxImportBytes+1), "backup: must be at most 4194304 bytes"},
		"chacha":          {set("type", keysutil.KeyType_ChaCha20_Poly1305), "backup: is of type chacha20-poly1305: write key_type=chacha20-poly1305"},
		"RSA":             {set("type", keysutil.KeyType_RSA4096), type1},
		"CBC":             {set("type", keysutil.KeyType_AES256_CBC), type1},
		"managed":         {set("type", keysutil.KeyType_MANAGED_KEY), type1},
		"unknown type":    {set("type", 99), type1},
		"convergent":      {set("convergent_encryption", true), "backup: is of a key with convergent_encryption, which is not supported: equal plaintexts would show as equal ciphertexts"},
		"derived":         {set("derived", true), "backup: is of a key with derived=true: write derived=true"},
		"soft deleted":    {set("soft_deleted", true), "backup: is of a key that is marked as deleted: undelete it in transit and make the backup again"},
		"another prefix":  {set("version_template", "mine:v{{version}}:"), "backup: is of a key whose ciphertexts do not begin as usual (version_template)"},
		"no keys":         {edited(t, good, func(policy, archive map[string]any) { policy["keys"], archive["keys"] = nil, nil }), "backup: has no key for version 1, which still decrypts"},
		"no latest":       {set("latest_version", 0), which},
		"least above":     {set("min_decryption_version", 3), which},
		"negative":        {set("min_available_version", -5), which},
		"latest is huge":  {set("latest_version", 1_000_000_000), which},
		"more than there": {set("latest_version", 3), "backup: has no key for version 3, which still decrypts"},
		"very many":       {set("latest_version", 1002), "backup: holds 1002 versions that still decrypt, of which at most 200 can be taken over: rewrap what the oldest made and raise min_decryption_version first"},
		"a key that is cut": {edited(t, good, func(policy, _ map[string]any) {
			policy["keys"].(map[string]any)["2"] = map[string]any{"key": b64("hunter2")}
		}), "backup: has a key of 7 bytes as version 2; aes256-gcm96 takes 32 bytes"},
	} {
		t.Run(name, func(t *testing.T) { refusesImport(t, importing(nil, "backup", c.text), c.want) })
	}
	derived := edited(t, good, func(policy, _ map[string]any) {
		policy["derived"], policy["kdf"] = true, keysutil.Kdf_hmac_sha256_counter
	})
	refusesImport(t, importing(option.Values{"derived": true}, "backup", derived), "backup: is of a key that is derived in the way of the first releases of transit (kdf hmac-sha256-counter), and not by HKDF: such keys cannot be taken over")
	refusesImport(t, importing(option.Values{"derived": true}, "backup", good), "backup: is of a key with derived=false: write derived=false")
	both := importing(nil, "backup", good)
	both.Secrets["import_key"] = secret.New("x")
	refusesImport(t, both, "backup: and import_key exclude each other: give one of them")
}

func TestKeysThatAreRefused(t *testing.T) {
	const neither = "import_key: is neither a key in base64 nor what transit/export/encryption-key/<name> answers as JSON"
	const noJSON = "import_key: is not what transit/export/encryption-key/<name> answers as JSON"
	const noKeys = `import_key: is JSON without keys: transit/export/encryption-key/<name> answers them as {"data": {"keys": {"1": ...}}}`
	const noNumber = "import_key: has a key under what is no number of a version"
	key := b64(strings.Repeat("k", 32))
	many := map[string]string{}
	for i := range maxImportVersions + 1 {
		many[strconv.Itoa(i+1)] = key
	}
	raw, err := json.Marshal(map[string]any{"keys": many})
	require.NoError(t, err)
	for text, want := range map[string]string{
		"hunter2":                             neither,
		"-----BEGIN PRIVATE KEY-----":         neither,
		b64("hunter2"):                        "import_key: has a key of 7 bytes as version 1; aes256-gcm96 takes 32 bytes",
		strings.Repeat("A", maxImportBytes+1): "import_key: must be at most 4194304 bytes",
		"   ":                                 "import_key: has a key of 0 bytes as version 1; aes256-gcm96 takes 32 bytes",
		`{`:                                   noJSON,
		`{"keys": "hunter2"}`:                 noJSON,
		`{"keys": {"1": 5}}`:                  noJSON,
		`{"data": []}`:                        noJSON,
		`{}`:                                  noKeys,
		`{"data": {}}`:                        noKeys,
		`{"data": {"keys": {}}}`:              noKeys,
		`{"keys": {"0": "` + key + `"}}`:      noNumber,
		`{"keys": {"01": "` + key + `"}}`:     noNumber,
		`{"keys": {"+1": "` + key + `"}}`:     noNumber,
		`{"keys": {"latest": "` + key + `"}}`: noNumber,
		`{"keys": {"1000000000": "` + key + `"}}`:                noNumber,
		`{"keys": {"99999999999999999999": "` + key + `"}}`:      noNumber,
		`{"keys": {"4": "hunter2"}}`:                             "import_key: has a key as version 4 that is not base64: only symmetric keys can be taken over",
		`{"keys": {"4": ""}}`:                                    "import_key: has a key of 0 bytes as version 4; aes256-gcm96 takes 32 bytes",
		`{"type": "rsa-2048", "keys": {"1": "x"}}`:               "import_key: is of a type that is not supported here; those are aes256-gcm96, chacha20-poly1305, aes128-gcm96",
		`{"data": {"type": "aes128-gcm96", "keys": {"1": "x"}}}`: "import_key: is of type aes128-gcm96: write key_type=aes128-gcm96",
		string(raw): "import_key: holds 201 versions that still decrypt, of which at most 200 can be taken over: rewrap what the oldest made and raise min_decryption_version first",
	} {
		refusesImport(t, importing(nil, "import_key", text), want)
	}
}

func refusesImport(t *testing.T, r *rotator.Role, want string) {
	t.Helper()
	err := New().CheckRole(nil, r)
	require.EqualError(t, err, want)
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.NotContains(t, err.Error(), "hunter2")
	_, planned := New().Plan(context.Background(), &rotator.Target{Role: r})
	require.EqualError(t, planned, want)
}

// FuzzImport holds that whatever is pasted is taken whole or refused with a sentence.
func FuzzImport(f *testing.F) {
	key := b64(strings.Repeat("k", 32))
	for _, seed := range []string{key, `{"keys":{"1":"` + key + `"}}`, `{"data":{"type":"aes256-gcm96","keys":{"2":"` + key + `"}}}`, b64(`{"policy":{"type":0,"latest_version":1,"keys":{"1":{"key":"` + key + `"}}}}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, field := range []string{importKey, importBackup} {
			keys, err := parseImport(&roleOptions{}, &keyTypes[0], secret.NewMap(map[string]string{field: text}))
			if err != nil {
				require.Equal(t, fault.Invalid, fault.KindOf(err))
				continue
			}
			for _, number := range slices.Sorted(maps.Keys(keys)) {
				require.True(t, number >= 1 && number <= maxVersion)
				require.Len(t, keys[number], 32)
			}
		}
	})
}
