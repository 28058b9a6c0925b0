package schedule_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
)

func TestMaintenanceWindows(t *testing.T) {
	sundays, err := schedule.ParseCron("0 2 * * SUN")
	require.NoError(t, err)
	hourly, err := schedule.ParseCron("0 * * * *")
	require.NoError(t, err)
	m := schedule.Maintenance{Cron: sundays, Window: 4 * time.Hour}
	day := func(d, h, m int) time.Time { return time.Date(2026, 3, d, h, m, 0, 0, time.UTC) } // 1 March is a Sunday

	for name, c := range map[string]struct {
		m             schedule.Maintenance
		at            time.Time
		opens, closes time.Time
	}{
		"no window at all":          {schedule.Maintenance{}, day(3, 12, 0), day(3, 12, 0), time.Time{}},
		"before it":                 {m, day(1, 1, 59), day(1, 2, 0), time.Time{}},
		"at its start":              {m, day(1, 2, 0), day(1, 2, 0), day(1, 6, 0)},
		"within it":                 {m, day(1, 5, 59), day(1, 5, 59), day(1, 6, 0)},
		"at its end":                {m, day(1, 6, 0), day(8, 2, 0), time.Time{}},
		"windows that just touch":   {schedule.Maintenance{Cron: hourly, Window: 30 * time.Minute}, day(1, 3, 10), day(1, 3, 10), day(1, 3, 30)},
		"between two of the hourly": {schedule.Maintenance{Cron: hourly, Window: 30 * time.Minute}, day(1, 3, 40), day(1, 4, 0), time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.opens, c.m.OpensAt(c.at))
			require.Equal(t, c.closes, c.m.ClosesAt(c.at))
		})
	}

	always := schedule.Maintenance{Cron: hourly, Window: 2 * time.Hour}
	require.Greater(t, always.ClosesAt(day(1, 3, 10)).Sub(day(1, 3, 10)), 24*time.Hour, "windows that overlap are one")
}
