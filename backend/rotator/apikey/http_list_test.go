package apikey

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// items are keys named ours-0, ours-1, ...
func items(from, to int) []any {
	out := []any{}
	for i := from; i < to; i++ {
		out = append(out, fields{"name": fmt.Sprint("ours-", i), "id": i})
	}
	return out
}

func TestHTTPFind(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	api := serveAcme(t, always(200, fields{"keys": []any{
		fields{"name": "ours-1", "id": "a", "made": made.Format(time.RFC3339)},
		fields{"name": "ours-2", "id": 12345678901, "made": made.Unix()},
		fields{"name": "ours-3", "id": "c", "made": "yesterday"},
		fields{"name": "theirs-ours-1", "id": "d"},
		fields{"name": nil, "id": "e"},
		fields{"name": 7, "id": "../f"},
		fields{"id": "g"},
		fields{},
		"text", 7, nil,
		[]any{},
		fields{"name": "theirs", "id": "../h"},
		fields{"name": "ours-1", "id": "a"}, // again
	}}))
	h := openHTTP(t, changed(t, fields{"list.prefix_parameter": "q"}), api.URL, testParameters)
	got, err := h.find(t.Context(), "ours-")
	require.NoError(t, err)
	require.Equal(t, []found{
		{Name: "ours-1", Reference: reference{ID: "a"}, Created: made},
		{Name: "ours-2", Reference: reference{ID: "12345678901"}, Created: made},
		{Name: "ours-3", Reference: reference{ID: "c"}},
	}, got)
	require.NoError(t, h.ping(t.Context()))
	require.Equal(t, []string{"GET /keys?q=ours-", "GET /keys"}, api.sent())
}

func TestHTTPFindAtTheRoot(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, always(200, items(0, 2)))
	got, err := openHTTP(t, changed(t, fields{"list.items": ""}), api.URL, testParameters).find(t.Context(), "ours")
	require.NoError(t, err)
	require.Len(t, got, 2)
}

// A list that cannot be read is an error, and never an empty one.
func TestHTTPFindRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		status int
		body   any
		kind   fault.Kind
	}{
		{"no list", 200, fields{"keys": fields{}}, fault.Target},
		{"another answer", 200, fields{}, fault.Target},
		{"no JSON", 200, "", fault.Target},
		{"ours without an id", 200, fields{"keys": []any{fields{"name": "ours-1"}}}, fault.Target},
		{"ours with an id that leads up", 200, fields{"keys": []any{fields{"name": "ours-1", "id": ".."}}}, fault.Target},
		{"another success", 206, fields{"keys": []any{}}, fault.Target},
		{"not found", 404, fields{"error": "x"}, fault.Target},
		{"refused", 401, fields{"error": "x"}, fault.AuthFailed},
		{"too many", 429, fields{"error": "x"}, fault.Unreachable},
	} {
		api := serveAcme(t, always(tc.status, tc.body))
		_, err := openHTTP(t, whole, api.URL, testParameters).find(t.Context(), "ours")
		require.Equal(t, tc.kind, fault.KindOf(err), tc.name)
	}
	api := serveAcme(t, always(200, fields{"keys": nil}))
	got, err := openHTTP(t, whole, api.URL, testParameters).find(t.Context(), "ours")
	require.NoError(t, err)
	require.Empty(t, got, "some write an empty list as null")
}

// paged serves 5 keys, 2 to a page.
func paged(next func(q url.Values) (from int, more func(to int) fields)) func(*http.Request) (int, any) {
	return func(r *http.Request) (int, any) {
		from, more := next(r.URL.Query())
		from = min(from, 5)
		to := min(from+2, 5)
		body := more(to)
		body["keys"] = items(from, to)
		return 200, body
	}
}

func nothing(int) fields { return fields{} }

func TestHTTPPages(t *testing.T) {
	t.Parallel()
	number := func(q url.Values, name string) int { n, _ := strconv.Atoi(q.Get(name)); return n }
	for _, tc := range []struct {
		name   string
		page   fields
		serve  func(*http.Request) (int, any)
		wanted []string
	}{
		{
			"by offset, until a page is empty",
			fields{"style": "offset", "parameter": "o"},
			paged(func(q url.Values) (int, func(int) fields) { return number(q, "o"), nothing }),
			[]string{"GET /keys?o=0", "GET /keys?o=2", "GET /keys?o=4", "GET /keys?o=5"},
		},
		{
			"by offset, until there are no more",
			fields{"style": "offset", "parameter": "o", "more": "/more", "size_parameter": "s", "size": 2},
			paged(func(q url.Values) (int, func(int) fields) {
				return number(q, "o"), func(to int) fields { return fields{"more": to < 5} }
			}),
			[]string{"GET /keys?o=0&s=2", "GET /keys?o=2&s=2", "GET /keys?o=4&s=2"},
		},
		{
			"by number",
			fields{"style": "number", "parameter": "p"},
			paged(func(q url.Values) (int, func(int) fields) { return 2 * (number(q, "p") - 1), nothing }),
			[]string{"GET /keys?p=1", "GET /keys?p=2", "GET /keys?p=3", "GET /keys?p=4"},
		},
		{
			"by number, from zero",
			fields{"style": "number", "parameter": "p", "start": 0, "more": "/more"},
			paged(func(q url.Values) (int, func(int) fields) {
				return 2 * number(q, "p"), func(to int) fields { return fields{"more": to < 5} }
			}),
			[]string{"GET /keys?p=0", "GET /keys?p=1", "GET /keys?p=2"},
		},
		{
			"by cursor, until there is none",
			fields{"style": "cursor", "parameter": "c", "next": "/next"},
			paged(func(q url.Values) (int, func(int) fields) {
				return number(q, "c"), func(to int) fields {
					if to == 5 {
						return fields{"next": nil}
					}
					return fields{"next": to} // a number
				}
			}),
			[]string{"GET /keys?c=2", "GET /keys?c=4"},
		},
		{
			"by the last id, until there are no more",
			fields{"style": "cursor", "parameter": "c", "next": "/last", "more": "/more"},
			paged(func(q url.Values) (int, func(int) fields) {
				return number(q, "c"), func(to int) fields { return fields{"last": fmt.Sprint(to), "more": to < 5} }
			}),
			[]string{"GET /keys?c=2", "GET /keys?c=4"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			api := serveAcme(t, tc.serve)
			h := openHTTP(t, changed(t, fields{"list.page": tc.page}), api.URL, testParameters)
			got, err := h.find(t.Context(), "ours")
			require.NoError(t, err)
			require.Len(t, got, 5)
			if tc.page["style"] == "cursor" {
				tc.wanted = append([]string{"GET /keys"}, tc.wanted...)
			}
			require.Equal(t, tc.wanted, api.sent())

			require.NoError(t, h.ping(t.Context()))
			require.Len(t, api.sent(), len(tc.wanted)+1, "one page proves the admin key")
		})
	}
}

// Keys that come and go while a list is read move the others between pages.
func TestHTTPPagesShift(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, func(r *http.Request) (int, any) {
		switch r.URL.Query().Get("p") {
		case "1":
			return 200, fields{"keys": items(0, 3)}
		case "2":
			return 200, fields{"keys": items(2, 5)}
		}
		return 200, fields{"keys": []any{}}
	})
	got, err := openHTTP(t, changed(t, fields{"list.page": fields{"style": "number", "parameter": "p"}}), api.URL, testParameters).find(t.Context(), "ours")
	require.NoError(t, err)
	require.Len(t, got, 5)
}

// A list without an end is an error after a bound.
func TestHTTPPagesInCircles(t *testing.T) {
	t.Parallel()
	count := 0
	for _, tc := range []struct {
		name string
		page fields
		body func() any
		want string
		most int
	}{
		{"the parameter is not heeded", fields{"style": "offset", "parameter": "o"}, func() any { return fields{"keys": items(0, 2)} }, "lead nowhere", 2},
		{"foreign keys without ids", fields{"style": "number", "parameter": "o"}, func() any { return fields{"keys": []any{fields{"name": "x"}}} }, "lead nowhere", 2},
		{"the same cursor", fields{"style": "cursor", "parameter": "c", "next": "/next"}, func() any { return fields{"keys": items(0, 2), "next": "x"} }, "lead nowhere", 2},
		{"more, and no cursor", fields{"style": "cursor", "parameter": "c", "next": "/next", "more": "/more"}, func() any { return fields{"keys": items(0, 2), "more": true} }, "lead nowhere", 1},
		{"more, and nothing there", fields{"style": "offset", "parameter": "o", "more": "/more"}, func() any { return fields{"keys": []any{}, "more": true} }, "lead nowhere", 1},
		{"whether there are more is not said", fields{"style": "offset", "parameter": "o", "more": "/more"}, func() any { return fields{"keys": items(0, 2)} }, "cannot be understood", 1},
		{"whether there are more is no truth value", fields{"style": "cursor", "parameter": "c", "next": "/n", "more": "/more"}, func() any { return fields{"keys": items(0, 2), "more": "no", "n": "x"} }, "cannot be understood", 1},
		{"a cursor that is a list", fields{"style": "cursor", "parameter": "c", "next": "/next"}, func() any { return fields{"keys": items(0, 2), "next": []any{}} }, "lead nowhere", 1},
		{"a cursor of two lines", fields{"style": "cursor", "parameter": "c", "next": "/next"}, func() any { return fields{"keys": items(0, 2), "next": "a\nb"} }, "lead nowhere", 1},
		{"a long cursor", fields{"style": "cursor", "parameter": "c", "next": "/next"}, func() any { return fields{"keys": items(0, 2), "next": strings.Repeat("x", 1025)} }, "lead nowhere", 1},
		{"pages without end", fields{"style": "number", "parameter": "p"}, func() any { count++; return fields{"keys": items(count, count+1)} }, "more than 100 pages", 100},
		{"keys without end", fields{"style": "number", "parameter": "p"}, func() any { count += 3000; return fields{"keys": items(count, count+3000)} }, "more than 20000 keys", 7},
	} {
		api := serveAcme(t, func(*http.Request) (int, any) { return 200, tc.body() })
		_, err := openHTTP(t, changed(t, fields{"list.page": tc.page}), api.URL, testParameters).find(t.Context(), "ours")
		require.True(t, fault.Is(err, fault.Target), tc.name)
		require.ErrorContains(t, err, tc.want, tc.name)
		require.Len(t, api.sent(), tc.most, tc.name)
	}
}

// An id is shown to everybody: one that is the credential that was sent is none.
func TestHTTPListEchoes(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, func(r *http.Request) (int, any) {
		return 200, fields{"keys": []any{fields{"id": strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), "name": "ours-1"}}}
	})
	h := openHTTP(t, whole, api.URL, testParameters)
	_, err := h.find(t.Context(), "ours-")
	require.EqualError(t, err, "list keys at Acme: a key that is named as ours are has no id that can be used")
	require.True(t, fault.Is(err, fault.Target))
	found, err := h.find(t.Context(), "theirs-")
	require.NoError(t, err)
	require.Empty(t, found)
}
