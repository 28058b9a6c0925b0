package rotation

import "time"

// Mirror is what the journal knows of the copy of the current version at a path elsewhere.
type Mirror struct {
	// Path is the connection and the path there.
	Path string `json:"path"`
	// Copy is the place's own number of the copy that we wrote last, 0 for none; Version is
	// ours in it, and Fields the fingerprint of what it was to hold.
	Copy    int    `json:"copy"`
	Version int    `json:"version"`
	Fields  string `json:"fields,omitempty"`
	// RotationID is what that copy bears.
	RotationID string `json:"rotation_id,omitempty"`
	// Instead is the number of the copy that was journalled to be written over, and Meant the
	// ids that the one in its place may bear, the newest first: by them it is known as ours
	// when the answer of its write was lost.
	Instead     int       `json:"instead,omitempty"`
	Meant       []string  `json:"meant,omitempty"`
	WrittenTime time.Time `json:"written_time,omitzero"`
	// Foreign says what somebody else wrote in its place, and ForeignCopy is its number.
	Foreign     string `json:"foreign,omitempty"`
	ForeignCopy int    `json:"foreign_copy,omitempty"`
	// Attention is the back-off after a copy that could not be written.
	Attention *Attention `json:"attention,omitempty"`
}

// Trouble says what is wrong with the copy, "" for nothing.
func (m *Mirror) Trouble() string {
	switch {
	case m == nil:
		return ""
	case m.Foreign != "":
		return "the copy at " + m.Path + " is not ours any more: " + m.Foreign
	case m.Attention != nil:
		return "the copy at " + m.Path + ": " + m.Attention.Reason
	default:
		return ""
	}
}
