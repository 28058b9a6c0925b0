package httpcheck

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// statuses are the ones that say that all is well, as ranges.
type statuses []statusRange

type statusRange struct {
	first, last int
	text        string // as it was written
}

const (
	// No answer ends with a status below it: those of 1xx announce another one.
	lowestStatus  = 200
	highestStatus = 599
	maxStatuses   = 20
)

var statusForm = regexp.MustCompile(`^(?:([0-9]{3})(?:-([0-9]{3}))?|([2-5])[xX]{2})$`)

func parseStatuses(entries []string) (statuses, error) {
	if len(entries) == 0 || len(entries) > maxStatuses {
		return nil, fault.Field("expected_status", "must name 1 to %d statuses or ranges, such as 200,204 or 2xx", maxStatuses)
	}
	all := make(statuses, 0, len(entries))
	for _, entry := range entries {
		r, ok := parseStatus(strings.TrimSpace(entry))
		if !ok || r.first < lowestStatus || r.last > highestStatus || r.first > r.last {
			return nil, fault.Field("expected_status", "%.20q is none: write a status such as 200, a class such as 2xx, or a range such as 200-299, from %d to %d",
				entry, lowestStatus, highestStatus)
		}
		all = append(all, r)
	}
	return all, nil
}

func parseStatus(entry string) (statusRange, bool) {
	parts := statusForm.FindStringSubmatch(entry)
	if parts == nil {
		return statusRange{}, false
	}
	if class := number(parts[3]); class > 0 {
		return statusRange{first: class * 100, last: class*100 + 99, text: fmt.Sprintf("%dxx", class)}, true
	}
	r := statusRange{first: number(parts[1]), last: number(parts[2]), text: entry}
	if parts[2] == "" {
		r.last = r.first
	}
	return r, true
}

// number reads digits, and 0 for none.
func number(digits string) int {
	n, _ := strconv.Atoi(digits)
	return n
}

func (s statuses) admit(status int) bool {
	for _, r := range s {
		if r.first <= status && status <= r.last {
			return true
		}
	}
	return false
}

// String names them in a sentence: "200, 204 or 3xx".
func (s statuses) String() string {
	texts := make([]string, 0, len(s))
	for _, r := range s {
		texts = append(texts, r.text)
	}
	last := len(texts) - 1
	if last < 1 {
		return strings.Join(texts, "")
	}
	return strings.Join(texts[:last], ", ") + " or " + texts[last]
}
