package encryption

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

func TestRolesThatAreRefused(t *testing.T) {
	const schedule = "0 2 * * *"
	for _, c := range []struct {
		values option.Values
		want   string
	}{
		{option.Values{"key_type": "rsa-4096"}, "key_type: is not known; valid is aes256-gcm96, chacha20-poly1305, aes128-gcm96"},
		{option.Values{"key_type": ""}, "key_type: is not known; valid is aes256-gcm96, chacha20-poly1305, aes128-gcm96"},
		{option.Values{"settle_period": 59}, "settle_period: must be at least 1m, and at most 10 years: what encrypt answered is stored some time later"},
		{option.Values{"settle_period": 0}, "settle_period: must be at least 1m, and at most 10 years: what encrypt answered is stored some time later"},
		{option.Values{"reencrypt_after": -1}, "reencrypt_after: must be from 0 to 10 years"},
		{option.Values{"reencrypt_after": int64(11 * 365 * 86400)}, "reencrypt_after: must be from 0 to 10 years"},
		{option.Values{"destroy_after": -1}, "destroy_after: must not be negative; 0 keeps keys for ever"},
		{option.Values{"maintenance_schedule": schedule}, "maintenance_schedule: needs maintenance_window: for how long the window is open"},
		{option.Values{"maintenance_window": 3600}, "maintenance_window: needs maintenance_schedule: when the window opens"},
		{option.Values{"maintenance_schedule": schedule, "maintenance_window": 599}, "maintenance_window: must be at least 10m"},
		{option.Values{"maintenance_schedule": schedule, "maintenance_window": -5}, "maintenance_window: must be at least 10m"},
		{option.Values{"max_rows_per_second": -1}, "max_rows_per_second: must be from 0, which sets no bound, to 1000000"},
		{option.Values{"max_rows_per_second": 1_000_001}, "max_rows_per_second: must be from 0, which sets no bound, to 1000000"},
	} {
		err := New().CheckRole(nil, &rotator.Role{Values: c.values})
		require.EqualError(t, err, c.want)
		require.Equal(t, fault.Invalid, fault.KindOf(err))
	}
}

func TestDataPolicy(t *testing.T) {
	r := &rotator.Role{}
	require.NoError(t, New().CheckRole(nil, r))
	got, err := New().DataPolicy(r)
	require.NoError(t, err)
	require.Equal(t, rotator.DataPolicy{After: 24 * time.Hour, Settle: time.Hour}, got)

	r.Values = option.Values{
		"reencrypt_after": 0, "settle_period": 60, "maintenance_schedule": "0 2 * * *", "maintenance_window": 600, "max_rows_per_second": 500,
	}
	require.NoError(t, New().CheckRole(nil, r))
	got, err = New().DataPolicy(r)
	require.NoError(t, err)
	require.Equal(t, rotator.DataPolicy{Settle: time.Minute, Schedule: "0 2 * * *", Window: 10 * time.Minute, RowsPerSecond: 500}, got)
}

func TestWarnings(t *testing.T) {
	require.Empty(t, New().Warnings(&rotator.Role{Grace: 24 * time.Hour}))
	got := New().Warnings(&rotator.Role{Values: option.Values{"destroy_after": 86400}})
	require.Len(t, got, 1)
	require.Contains(t, got[0], "the key of a version is destroyed 24h0m0s after the version ended: a database backup that is older")
	r := &rotator.Role{Values: option.Values{"exportable": true}, Grace: 24 * time.Hour}
	got = New().Warnings(r)
	require.Len(t, got, 1)
	require.Contains(t, got[0], "may encrypt with it outside Vault for 6h0m0s")
	r.Values["settle_period"] = 6 * 3600
	require.Empty(t, New().Warnings(r))
}

func TestKind(t *testing.T) {
	kind := New().Kind()
	require.Equal(t, "encryption-key", kind.Name)
	require.Empty(t, kind.ConnectionTypes)
	for _, name := range []string{"key_type", "derived", "exportable"} {
		require.True(t, kind.Options.Named(name).Immutable, name)
	}
	for _, name := range []string{"import_key", "backup"} {
		require.True(t, kind.Options.Named(name).Secret, name)
	}
}
