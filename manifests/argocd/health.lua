-- Health of Berth's objects for Argo CD, whose default calls each object of a custom resource
-- healthy: key resource.customizations.health.berth.dev_KIND of ConfigMap argocd-cm, for each
-- KIND, or "berth.dev/*" in resource.customizations.
local health = {status = "Progressing", message = "no controller has looked at it yet"}
if obj.status == nil or obj.status.conditions == nil then
  return health
end
local seen = obj.status.observedGeneration
if seen ~= nil and obj.metadata.generation ~= nil and seen ~= obj.metadata.generation then
  health.message = "generation " .. obj.metadata.generation .. " has not been looked at yet"
  return health
end
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Ready" then
    health.message = condition.message
    if condition.status == "True" then
      health.status = "Healthy"
    elseif condition.status == "False" then
      health.status = "Degraded"
    end
  end
end
return health
