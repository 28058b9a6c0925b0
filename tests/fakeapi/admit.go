package fakeapi

import "net/http"

// refusal is what a provider answers to a request that it does not admit.
type refusal struct {
	status        int
	message, code string
}

// refusals are a provider's answers to a request without a credential, with one that is not accepted,
// and with one that is and may not do this.
type refusals struct{ missing, wrong, forbidden refusal }

// admission is the admit of a provider with one credential, which an admin key serves for all that a
// key does.
func (s *Server) admission(answers refusals) func(*http.Request, access) *reply {
	return func(_ *http.Request, need access) *reply {
		why := answers.missing
		if len(s.current.sent) > 0 {
			switch r := s.byValue(s.current.sent[0]); {
			case !s.accepted(r):
				why = answers.wrong
			case r.limited || need == withRoot && r.kind != rootKey:
				why = answers.forbidden
			default:
				r.used = s.now()
				return nil
			}
		}
		a := s.fail(why.status, why.message, why.code)
		return &a
	}
}
