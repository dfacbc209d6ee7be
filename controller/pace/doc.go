// Package pace has many keys wait for their turns, and lets those leave that need none any longer.
// Begin with Pacer.
package pace
