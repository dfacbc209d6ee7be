package bundle

import (
	"regexp"
	"strings"
)

// shortest is how long a user in a URL without a password is at least to be taken for a token.
const shortest = 8

var (
	// beforeHost is the beginning of a URL up to a password, a port, or what ends the host.
	beforeHost = regexp.MustCompile(`://[^\s/@:"']*:?`)
	// inURL is the rest of a URL.
	inURL = regexp.MustCompile(`^(?:[^\s"']|["']+` + goesOn + `)*`)
	port  = regexp.MustCompile(`^\d{1,5}[/?#]`)
)

// urls redacts the password in each URL, or a token in its place.
func urls(text string) string {
	var out strings.Builder
	at := 0
	end, sign := 0, -1 // of the URL, and the @ in it that ends a password
	for {
		m := beforeHost.FindStringIndex(text[at:])
		if m == nil {
			return out.String() + text[at:]
		}
		user, password := at+m[0]+len("://"), at+m[1]
		if password >= end {
			end = password + len(inURL.FindString(text[password:]))
			sign = password + passwordEnd(text[password:end])
		}
		secret := password
		switch after := text[password:]; {
		case text[password-1] == ':' && text[user] != '[' && !port.MatchString(after) && sign >= password:
			out.WriteString(text[at:password] + Redacted)
			secret = sign
		case password-user >= shortest && strings.HasPrefix(after, "@") && !isDigest(after):
			out.WriteString(text[at:user] + Redacted)
		default:
			out.WriteString(text[at:password])
		}
		at = secret
	}
}

// passwordEnd returns where the last @ is that is not before the digest of an image, or -1.
func passwordEnd(url string) int {
	at := strings.LastIndexByte(url, '@')
	for at >= 0 && isDigest(url[at:]) {
		at = strings.LastIndexByte(url[:at], '@')
	}
	return at
}

func isDigest(text string) bool { return strings.HasPrefix(text, "@sha256:") }
