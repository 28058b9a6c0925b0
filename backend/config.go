package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// ConfigOptions declares the mount-wide settings.
func ConfigOptions() option.Set {
	d := store.DefaultConfig()
	return option.Set{
		{Name: "paused", Type: option.Bool, Default: false, Help: "Stops everything that acts: rotations, retirements and emergencies. Reading credentials goes on. Set it on a clone or a restored copy of Vault before it can touch the originals' targets."},
		{Name: "max_concurrent_rotations", Type: option.Int, Default: int64(d.MaxConcurrentRotations), Help: "How many roles are worked on at the same time, 1 to 256. Requests about one role have a few places of their own."},
		{Name: "overdue_after", Type: option.Duration, Default: d.OverdueAfter.Seconds(), Help: "From which lateness a role is overdue, and rotates outside its window."},
		{Name: "history_limit", Type: option.Int, Default: int64(d.HistoryLimit), Help: "How many ended rotations are kept per role, 1 to 10000."},
		{Name: "access_rate_threshold", Type: option.Int, Default: int64(d.AccessRateThreshold), Help: "Above how many reads a minute of one role's secret people are told who reads it; 0 for never. A role may have its own."},
		{Name: "external_url", Type: option.String, Help: "Where verifiers of tokens reach this Vault, such as https://vault.example.com:8200, without /v1. Discovery documents of jwt roles are made of it; without it there are none. An empty value clears it."},
		{Name: "channels", Type: option.List, Help: "The channels that are told of roles which name none themselves. Empty: all channels."},
		{Name: "contacts", Type: option.List, Help: "Channels in line for what is wrong: the first is told at once, each of the others when nobody acknowledged within escalate_after."},
		{Name: "escalate_after", Type: option.Duration, Default: d.EscalateAfter.Seconds(), Help: "How long an alarm or an incident may stay unacknowledged before the next of contacts is told, at least a minute; 0 for never."},
		{Name: "notify_before", Type: option.Duration, Default: d.NotifyBefore.Seconds(), Help: "How long ahead people are told of a scheduled rotation; 0 for not at all."},
		{Name: "unauthenticated_metrics", Type: option.Bool, Default: false, Help: "Lets anybody who reaches Vault read public/metrics, which name every role. metrics, which asks for a token, is there all the same."},
	}
}

// Config returns the mount-wide settings.
func (e *Engine) Config(ctx context.Context) (store.Config, error) { return e.store.Config(ctx) }

// ExternalURL is where clients reach Vault, or "". It asks no storage: anyone may
// make the requests that need it.
func (e *Engine) ExternalURL() string { return e.config.Load().ExternalURL }

// WriteConfig changes what was given, and leaves the rest.
func (e *Engine) WriteConfig(ctx context.Context, w Write) (store.Config, error) {
	unlock, err := e.locks.lock(ctx, "config document")
	if err != nil {
		return store.Config{}, err
	}
	defer unlock()
	config, err := e.store.Config(ctx)
	if err != nil {
		return config, err
	}
	if err := overlay(ConfigOptions(), &config, w.Given); err != nil {
		return config, err
	}
	switch {
	case config.MaxConcurrentRotations < 1 || config.MaxConcurrentRotations > 256:
		return config, fault.Field("max_concurrent_rotations", "must be between 1 and 256")
	case config.HistoryLimit < 1 || config.HistoryLimit > 10000:
		return config, fault.Field("history_limit", "must be between 1 and 10000")
	case config.AccessRateThreshold < 0:
		return config, fault.Field("access_rate_threshold", "must not be negative; 0 tells of no rate")
	case config.OverdueAfter <= 0:
		return config, fault.Field("overdue_after", "must be longer than zero")
	}
	switch {
	case config.EscalateAfter < 0 || config.EscalateAfter > 0 && config.EscalateAfter.Std() < time.Minute:
		return config, fault.Field("escalate_after", "must be at least a minute, or 0 for never")
	case config.NotifyBefore < 0:
		return config, fault.Field("notify_before", "must not be negative")
	}
	for field, names := range map[string][]string{"channels": config.Channels, "contacts": config.Contacts} {
		if _, given := w.Given[field]; !given {
			continue
		}
		if err := e.checkChannels(ctx, field, names); err != nil {
			return config, err
		}
	}
	if config.ExternalURL, err = externalURL(config.ExternalURL); err != nil {
		return config, err
	}
	if err := e.store.PutConfig(ctx, config); err != nil {
		return config, err
	}
	was := e.config.Swap(&config)
	if config.Paused {
		e.reencryptions.interruptAll()
	}
	unpaused := was.Paused && !config.Paused // roles were passed over meanwhile
	if unpaused {
		e.beginService()
	}
	told := was.OverdueAfter != config.OverdueAfter || was.NotifyBefore != config.NotifyBefore ||
		was.EscalateAfter != config.EscalateAfter || !slices.Equal(was.Contacts, config.Contacts)
	if unpaused || told {
		e.forgetAll() // the next time to look at a role is another
	}
	return config, nil
}

// externalURL checks an address under which clients reach Vault, and takes the
// slashes off its end.
func externalURL(given string) (string, error) {
	if given == "" {
		return "", nil
	}
	u, err := url.Parse(strings.TrimRight(given, "/"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || strings.ContainsAny(given, "?#") {
		return "", fault.Field("external_url", "must be an http or https URL without user, query and fragment, such as https://vault.example.com:8200")
	}
	return u.String(), nil
}

// overlay lays given values over a document whose json names are the options'.
func overlay[T any](set option.Set, doc *T, given option.Values) error {
	raw, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	values := option.Values{}
	if err := json.Unmarshal(raw, &values); err != nil {
		return fmt.Errorf("decode settings: %w", err)
	}
	maps.Copy(values, given)
	var fresh T // a map that is already there would be merged into
	if err := set.Decode(values, &fresh); err != nil {
		return err
	}
	*doc = fresh
	return nil
}
