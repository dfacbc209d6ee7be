package controller

import "testing"

func TestNewProvider(t *testing.T) {
	for _, classless := range []bool{true, false} {
		c := &Controller{Options: Options{Classless: classless}}
		if p, err := NewProvider(c); (err == nil) != classless || (p != nil) != classless {
			t.Errorf("Classless %t: %v, %v", classless, p, err)
		}
		if c.Classless != classless {
			t.Errorf("Classless %t became %t", classless, c.Classless)
		}
	}
}
