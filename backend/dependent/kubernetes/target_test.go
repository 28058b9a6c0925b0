package kubernetes

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

func TestTargets(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]target{
		"default/deployment/api":         {namespace: "default", kinds: []string{deployment}, name: "api"},
		"a-1/statefulset/db.main":        {namespace: "a-1", kinds: []string{statefulSet}, name: "db.main"},
		"0/daemonset/9":                  {namespace: "0", kinds: []string{daemonSet}, name: "9"},
		"default/all/app=api":            {namespace: "default", kinds: kinds, selector: "app=api"},
		"default/deployment/app==api":    {namespace: "default", kinds: []string{deployment}, selector: "app==api"},
		"default/all/app!=api,tier=Web":  {namespace: "default", kinds: kinds, selector: "app!=api,tier=Web"},
		"default/all/app in (a, b),!old": {namespace: "default", kinds: kinds, selector: "app in (a,b),!old"},
		"default/all/ app notin(a) ,x":   {namespace: "default", kinds: kinds, selector: "app notin (a),x"},
		"default/all/example.com/app=1":  {namespace: "default", kinds: kinds, selector: "example.com/app=1"},
		"default/all/!example.com/a_B.c": {namespace: "default", kinds: kinds, selector: "!example.com/a_B.c"},
		"default/all/in notin (notin)":   {namespace: "default", kinds: kinds, selector: "in notin (notin)"},
	} {
		got, err := parseTarget(text)
		require.NoError(t, err, text)
		require.Equal(t, want, *got, text)
	}
}

func TestBadTargets(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"":                                 `target "": must be namespace/kind/name, such as default/deployment/api, or namespace/kind/selector, such as default/all/app=api`,
		"api":                              "must be namespace/kind/name",
		"default/deployment":               "must be namespace/kind/name",
		"default/deployment/":              "must be namespace/kind/name",
		"/deployment/api":                  "must be namespace/kind/name",
		"default//api":                     "must be namespace/kind/name",
		"prod/default/deployment/api":      `the kind "default" must be deployment, statefulset or daemonset, or all with a label selector`,
		"default/deployments/api":          `the kind "deployments" must be deployment, statefulset or daemonset`,
		"default/Deployment/api":           `the kind "Deployment" must be`,
		"default/pod/api":                  `the kind "pod" must be`,
		"Default/deployment/api":           `the namespace "Default" must be of lower-case letters, digits and hyphens, at most 63`,
		"a.b/deployment/api":               `the namespace "a.b" must be`,
		"-a/deployment/api":                `the namespace "-a" must be`,
		"../deployment/api":                `the namespace ".." must be`,
		"\u0430/deployment/api":            `the namespace "\u0430" must be`,
		strings.Repeat("a", 64) + "/all/a": "the namespace",
		"default/deployment/API":           `the name "API" must be of lower-case letters, digits, hyphens and dots, at most 253; a label selector has an operator, as in app=api`,
		"default/deployment/api/scale":     `the name "api/scale" must be`,
		"default/deployment/..":            `the name ".." must be`,
		"default/deployment/a?x":           `the name "a?x" must be`,
		"default/deployment/a%2fb":         `the name "a%2fb" must be`,
		"default/deployment/*":             `the name "*" must be`,
		"default/deployment/api\n":         `the name "api\n" must be`,
		"default/deployment/" + strings.Repeat("a", 254): "the name",
		"default/all/api":                                      "all needs a label selector such as app=api; for the one of that name write deployment, statefulset or daemonset",
		"default/all/app=":                                     "the label selector ends where a value of app should stand",
		"default/all/=api":                                     `the label selector has "=" where the key of a label should stand, such as app or example.com/app`,
		"default/all/app=a,":                                   "the label selector ends where the key of a label should stand",
		"default/all/app=a,,b=c":                               `has "," where the key`,
		"default/all/app=a b":                                  `has "b" after app=a: requirements are separated by commas`,
		"default/all/app a":                                    `has "a" after app: write =, !=, in (...) or notin (...)`,
		"default/all/app In (a)":                               `has "In" after app`,
		"default/all/app in a":                                 "needs values in parentheses, as in app in (a,b)",
		"default/all/app in (a":                                "needs a parenthesis after the values of app, as in app in (a,b)",
		"default/all/app in (a b)":                             "needs a parenthesis after the values of app",
		"default/all/app in ()":                                `has ")" where a value of app should stand`,
		"default/all/app in (a,)":                              `has ")" where a value of app should stand`,
		"default/all/!":                                        "ends where the key of a label should stand",
		"default/all/!app=a":                                   `has "=" after !app`,
		"default/all/app=a&limit=1":                            `has "&", which cannot stand in one`,
		"default/all/app=a#":                                   `has "#", which cannot stand in one`,
		"default/all/app=\u00e9":                               `has "\u00e9", which cannot stand in one`,
		"default/all/app=a\tb":                                 `has "\t", which cannot stand in one`,
		"default/all/app>1=":                                   `has ">", which cannot stand in one`,
		"default/all/a/b/c=1":                                  `has "a/b/c" where the key`,
		"default/all/-a=1":                                     `has "-a" where the key`,
		"default/all/Example.com/=1":                           `has "Example.com/" where the key`,
		"default/all/app=-x":                                   `has "-x" where a value of app should stand: letters, digits, and between them - _ and ., at most 63`,
		"default/all/app=" + strings.Repeat("a", 64):           "where a value of app should stand",
		"default/all/" + strings.Repeat("a", 64) + "=a":        "where the key of a label should stand",
		"default/all/app=" + strings.Repeat("a", maxTarget):    "is longer than 1024 bytes",
		"default/all/app in (" + strings.Repeat("a,", 40)[:79]: "needs a parenthesis",
	} {
		_, err := parseTarget(text)
		requireFault(t, err, fault.Invalid, says)
		require.Less(t, len(err.Error()), 500)
	}
}

// What is sent as a selector is what was written, and means the same when it is read again.
func TestSelectorsAreStable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ab!=(), ./]{1,12}|[a-c]( (not)?in \([a-c](, ?[a-c]){0,3}\)|!?=[a-c])?(, ?!?[a-c])?`).Draw(t, "selector")
		once, err := parseSelector(text)
		if err != nil {
			return
		}
		twice, err := parseSelector(once)
		if err != nil || twice != once {
			t.Fatalf("%q became %q, then %q: %v", text, once, twice, err)
		}
	})
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	check := func(pattern, text string) error {
		c := &rotator.ConnectionConfig{Values: option.Values{"verify_connection": true}}
		if pattern != "" {
			c.Values["allowed_targets"] = []any{"other/deployment/x", pattern}
		}
		return New().CheckTarget(c, text)
	}
	for pattern, texts := range map[string][]string{
		"*":                        {"default/deployment/api", "x/all/app=a"},
		"def*":                     {"default/deployment/api"},
		"default/*":                {"default/deployment/api", "default/all/app=a"},
		"default/*/*":              {"default/deployment/api", "default/all/app=a"},
		"*/deployment/api":         {"default/deployment/api"},
		"default/deployment/*":     {"default/deployment/api", "default/deployment/app=a"},
		"default/deployment/api":   {"default/deployment/api"},
		"default/deployment/a*":    {"default/deployment/api", "default/deployment/a.b"},
		"default/all/app=*":        {"default/all/app=a", "default/all/app=a,tier=b"},
		"default/all/app in (a,b)": {"default/all/app in (a,b)"},
	} {
		for _, text := range texts {
			require.NoError(t, check(pattern, text), "%s admits %s", pattern, text)
		}
	}
	for pattern, texts := range map[string][]string{
		"default/*":              {"default2/deployment/api"},
		"default/deployment/api": {"default/deployment/api2", "default/statefulset/api", "default/deployment/app=api"},
		// What begins like a name would mean all others.
		"default/deployment/a*":    {"default/deployment/a!=b", "default/deployment/a,!b", "default/deployment/app=a"},
		"default/deployment/*":     {"default/all/app=a"},
		"*/deployment/api":         {"default/all/!x/deployment", "default/statefulset/api"},
		"default/all/app in (a,b)": {"default/all/app in (b,a)", "default/all/app=a"},
	} {
		for _, text := range texts {
			requireFault(t, check(pattern, text), fault.Invalid, `the connection does not admit it: its allowed_targets are "other/deployment/x", `+shown(pattern))
		}
	}
	requireFault(t, check("", "default/deployment/api"), fault.Invalid,
		`target "default/deployment/api": the connection admits none: whoever writes it must name what roles may restart, such as allowed_targets=default/deployment/api`)
	for text, pattern := range map[string]string{
		"default/all/app in (a,b)": "'default/all/app in (a*'", "default/all/app=a,b!=c": "default/all/app=a*", "default/all/app,!b": "default/all/*", "default/all/!b": "'default/all/!b'",
		"default/all/app=a,b=" + strings.Repeat("c", 60): "default/all/app=a*", "default/deployment/" + strings.Repeat("c", 200): "default/deployment/*",
	} {
		err := check("", text)
		requireFault(t, err, fault.Invalid, "the connection admits none: whoever writes it must name what roles may restart, such as allowed_targets=")
		require.Truef(t, strings.HasSuffix(err.Error(), "allowed_targets="+pattern), "%v: %s", err, pattern)
		require.NoError(t, check(strings.Trim(pattern, "'"), text))
	}
	requireFault(t, check("*", "default/pod/api"), fault.Invalid, `the kind "pod" must be`)
}

func TestBadPatterns(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for pattern, says := range map[string]string{
		"api":                         `allowed_targets: "api" admits nothing: targets are namespace/kind/name`,
		"":                            "targets are namespace/kind/name",
		"default/deployment":          "targets are namespace/kind/name",
		"default/deployment/":         "targets are namespace/kind/name",
		"/deployment/*":               "targets are namespace/kind/name",
		"b)":                          "where a selector has commas, repeat the field for each entry, or give a JSON array",
		"Default/deployment/*":        "a namespace is of lower-case letters, digits and hyphens",
		"prod/default/deployment/api": "its kind must be deployment, statefulset, daemonset or all; the name of the connection is not part of it",
		"default/deployments/api":     "its kind must be deployment",
	} {
		c := s.config()
		c.Values["allowed_targets"] = []string{"*", pattern}
		_, err := New().CheckConnection(c)
		requireFault(t, err, fault.Invalid, says)
	}
	c := s.config()
	c.Values["allowed_targets"] = make([]string, 101)
	_, err := New().CheckConnection(c)
	requireFault(t, err, fault.Invalid, "allowed_targets: has 101 entries; at most 100 are allowed")
}
