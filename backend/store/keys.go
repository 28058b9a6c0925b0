package store

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

const (
	// ConfigKey holds the mount-wide settings.
	ConfigKey        = "config"
	instanceKey      = "instance"
	connectionPrefix = "connection/"
	rolePrefix       = "role/"
	statePrefix      = "state/"
	materialPrefix   = "material/"
	historyPrefix    = "history/"
	incidentPrefix   = "incident/"
	incidentRoles    = "incident-role/"
	incidentNotes    = "incident-note/"
	toldPrefix       = "told/"
	tombstonePrefix  = "tombstone/"
	targetPrefix     = "target/"
	progressPrefix   = "reencryption/"
	channelPrefix    = "channel/"
	deliveriesPrefix = "deliveries/"
	outboxPrefix     = "outbox/"
	accessPrefix     = "access/"
)

// SealWrapped lists the storage keys and prefixes that hold secrets, for Vault's
// seal wrapping.
func SealWrapped() []string {
	return []string{instanceKey, connectionPrefix, channelPrefix, materialPrefix}
}

func sealWrapped(key string) bool {
	for _, p := range SealWrapped() {
		if key == p || strings.HasSuffix(p, "/") && strings.HasPrefix(key, p) {
			return true
		}
	}
	return false
}

func connectionKey(name string) string    { return connectionPrefix + name }
func roleKey(name string) string          { return rolePrefix + name }
func stateKey(name string) string         { return statePrefix + name }
func incidentKey(id string) string        { return incidentPrefix + id }
func incidentRoleFolder(id string) string { return incidentRoles + id + "/" }
func incidentNoteFolder(id string) string { return incidentNotes + id + "/" }
func toldFolder(id string) string         { return toldPrefix + id + "/" }
func tombstoneKey(name string) string     { return tombstonePrefix + name }
func accessKey(role string) string        { return accessPrefix + role }

func materialFolder(name string) string { return materialPrefix + name + "/" }
func materialKey(name string, version int) string {
	return fmt.Sprintf("%s%d", materialFolder(name), version)
}

func targetFolder(role string) string   { return targetPrefix + role + "/" }
func progressFolder(role string) string { return progressPrefix + role + "/" }

func outboxFolder(channel string) string { return outboxPrefix + channel + "/" }

// OutboxKey sorts by time, and is the same however often an event is handed over. A role
// may have several events of one moment, and so may several roles.
func OutboxKey(at time.Time, role, event string) string {
	sum := sha256.Sum256([]byte(role + "\x00" + event))
	return fmt.Sprintf("%s-%x", OutboxKeysFrom(at), sum[:8])
}

// OutboxKeysFrom sorts before the keys of all events of a time and later.
func OutboxKeysFrom(at time.Time) string { return fmt.Sprintf("%020d", at.UnixNano()) }

func historyFolder(name string) string { return historyPrefix + name + "/" }

// historyKey sorts by the time a rotation started, and is the same however
// often its record is written.
func historyKey(name string, started time.Time, rotationID string) string {
	return fmt.Sprintf("%s%020d-%s", historyFolder(name), started.UnixNano(), rotationID)
}

// RoleOf names the role that a storage key belongs to, "" for none: a node that
// only reads uses it to drop what it has cached.
func RoleOf(key string) string {
	for _, prefix := range []string{rolePrefix, statePrefix, tombstonePrefix} {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			return name
		}
	}
	if rest, ok := strings.CutPrefix(key, materialPrefix); ok {
		return rest[:max(strings.LastIndex(rest, "/"), 0)]
	}
	return ""
}

// IsChannel tells whether a storage key holds a channel.
func IsChannel(key string) bool { return strings.HasPrefix(key, channelPrefix) }

// IsConnection tells whether a storage key holds a connection.
func IsConnection(key string) bool { return strings.HasPrefix(key, connectionPrefix) }
