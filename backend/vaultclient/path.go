package vaultclient

import (
	"slices"
	"strings"

	"github.com/ryanuber/go-glob"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

const maxPath = 512

// CheckPath refuses a path, of a mount and what lies in it, that could mean something else
// to Vault than it says, or that names no more than a mount.
func CheckPath(path string) error {
	segments := strings.Split(path, "/")
	switch {
	case path == "":
		return fault.New(fault.Invalid, "a path is missing: the mount, and what lies in it, such as secret/intelliflow/database")
	case len(path) > maxPath:
		return fault.New(fault.Invalid, "the path is longer than %d bytes", maxPath)
	case slices.Contains(segments, ""):
		return fault.New(fault.Invalid, "the path %q must neither begin nor end with a slash, nor have an empty segment", path)
	case slices.Contains(segments, ".") || slices.Contains(segments, ".."):
		return fault.New(fault.Invalid, "the path %q must not have . or .. as a segment", path)
	case strings.ContainsFunc(path, unfit):
		return fault.New(fault.Invalid, "the path %q must consist of letters, digits and _ - . : @ between slashes", path)
	case len(segments) < 2:
		return fault.New(fault.Invalid, "the path %q must name the mount, and what lies in it, such as secret/intelliflow/database", path)
	}
	return nil
}

// unfit tells of what is no plain path: what policies or globs take for a wildcard, what a
// URL must escape, and all that is not ASCII.
func unfit(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.:@/", r)
}

// Admit refuses a path that is not fit, or that no pattern of a connection's allowed_paths
// admits. * stands for anything, slashes too.
func Admit(allowed []string, path string) error {
	if err := CheckPath(path); err != nil {
		return err
	}
	if len(allowed) == 0 {
		return fault.New(fault.Invalid, "the connection admits no path: its administrator has to list %q, or a pattern of it, in allowed_paths", path)
	}
	if !slices.ContainsFunc(allowed, func(pattern string) bool { return glob.Glob(pattern, path) }) {
		return fault.New(fault.Invalid, "the connection does not admit %q: none of its allowed_paths fits", path)
	}
	return nil
}
